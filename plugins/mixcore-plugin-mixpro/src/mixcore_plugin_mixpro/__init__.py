"""MixPro for mixcore: random cells of whole patches, and labels that trust attention as far as the prediction fits."""

from __future__ import annotations

from mixcore_plugin_mixpro.cells import cell_side, cells_by_draw, cells_on_units
from mixcore_plugin_mixpro.labels import MixProLabels, similarity
from mixcore_plugin_mixpro.mixpro import MixPro, maskmix
from mixcore_plugin_mixpro.version import __version__

__all__ = [
    "MixPro",
    "MixProLabels",
    "__version__",
    "cell_side",
    "cells_by_draw",
    "cells_on_units",
    "maskmix",
    "similarity",
]
