"""AdAutoMix for mixcore: several images mixed by learnt masks, which make them easy and hard in turn."""

from __future__ import annotations

from mixcore_plugin_adautomix.block import AdAutoMixBlock
from mixcore_plugin_adautomix.objective import generator_objective, similarity
from mixcore_plugin_adautomix.plugin import AdAutoMix
from mixcore_plugin_adautomix.sources import SourcesDraw, combine, draw_sources, shares_of
from mixcore_plugin_adautomix.version import __version__

__all__ = [
    "AdAutoMix",
    "AdAutoMixBlock",
    "SourcesDraw",
    "__version__",
    "combine",
    "draw_sources",
    "generator_objective",
    "shares_of",
    "similarity",
]
