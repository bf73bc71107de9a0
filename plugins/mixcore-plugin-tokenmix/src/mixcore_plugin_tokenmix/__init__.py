"""TokenMix for mixcore: rectangles of whole tokens, labels weighted by the content that is still seen."""

from __future__ import annotations

from mixcore_plugin_tokenmix.cells import block_cells, partner_tokens, random_cells
from mixcore_plugin_tokenmix.labels import TokenMixLabels, content_on_grid, content_weights, masks_on_grid
from mixcore_plugin_tokenmix.tokenmix import TokenMix, tokenmix
from mixcore_plugin_tokenmix.version import __version__

__all__ = [
    "TokenMix",
    "TokenMixLabels",
    "__version__",
    "block_cells",
    "content_on_grid",
    "content_weights",
    "masks_on_grid",
    "partner_tokens",
    "random_cells",
    "tokenmix",
]
