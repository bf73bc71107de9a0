"""SUMix for mixcore: label weights by what the network sees in a mix, with a learnt uncertainty."""

from __future__ import annotations

from mixcore_plugin_sumix.sumix import SUMix
from mixcore_plugin_sumix.terms import corrected_weights, distances, signed_terms, uncertainty_loss, unit_softmax
from mixcore_plugin_sumix.version import __version__

__all__ = [
    "SUMix",
    "__version__",
    "corrected_weights",
    "distances",
    "signed_terms",
    "uncertainty_loss",
    "unit_softmax",
]
