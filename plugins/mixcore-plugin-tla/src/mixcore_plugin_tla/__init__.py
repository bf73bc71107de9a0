"""TL-Align for mixcore: CutMix of whole tokens, labels mixed by the same attention that mixes the tokens."""

from __future__ import annotations

from mixcore_plugin_tla.labels import AlignedLabels, carry
from mixcore_plugin_tla.mixer import TokenAligned, on_pixels
from mixcore_plugin_tla.version import __version__

__all__ = ["AlignedLabels", "TokenAligned", "__version__", "carry", "on_pixels"]
