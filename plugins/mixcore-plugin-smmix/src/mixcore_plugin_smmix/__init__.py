"""SMMix for mixcore: the least attended square of each image shows the most attended one of another."""

from __future__ import annotations

from mixcore_plugin_smmix.regions import paste_moved, places, region_means, region_scores, side_range
from mixcore_plugin_smmix.smmix import SMMix, consistency, smmix
from mixcore_plugin_smmix.version import __version__

__all__ = [
    "SMMix",
    "__version__",
    "consistency",
    "paste_moved",
    "places",
    "region_means",
    "region_scores",
    "side_range",
    "smmix",
]
