"""C-Mixup for mixcore: images blended with others of a near label, for regression."""

from __future__ import annotations

from mixcore_plugin_cmixup.cmixup import CMixup, pick, probabilities, squared_distances
from mixcore_plugin_cmixup.version import __version__

__all__ = ["CMixup", "__version__", "pick", "probabilities", "squared_distances"]
