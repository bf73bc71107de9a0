"""CutMix for mixcore: a rectangle of another image, labels weighted by visible area."""

from __future__ import annotations

from mixcore_plugin_cutmix.cutmix import CutMix, cutmix, cutmix_per_sample
from mixcore_plugin_cutmix.version import __version__

__all__ = ["CutMix", "__version__", "cutmix", "cutmix_per_sample"]
