"""Saliency Grafting for mixcore: salient blocks of another image, drawn at random, and labels by what is seen of each.

A reconstruction of the method; the README says of what.
"""

from __future__ import annotations

from mixcore_plugin_saliencygrafting.grid import block_saliency, dividing_blocks, salient_blocks, usual_blocks
from mixcore_plugin_saliencygrafting.labels import SaliencyGraftingLabels, calibrated_weights, importance
from mixcore_plugin_saliencygrafting.magnitude import FeatureMagnitude
from mixcore_plugin_saliencygrafting.saliencygrafting import SaliencyGrafting, saliencygrafting
from mixcore_plugin_saliencygrafting.version import __version__

__all__ = [
    "FeatureMagnitude",
    "SaliencyGrafting",
    "SaliencyGraftingLabels",
    "__version__",
    "block_saliency",
    "calibrated_weights",
    "dividing_blocks",
    "importance",
    "saliencygrafting",
    "salient_blocks",
    "usual_blocks",
]
