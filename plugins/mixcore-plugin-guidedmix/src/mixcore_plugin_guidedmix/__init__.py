"""GuidedMixup for mixcore: each pixel by the saliency of both images, partners whose salient regions differ."""

from __future__ import annotations

from mixcore_plugin_guidedmix.guidedmix import GuidedMix, guided_masks, guidedmix, saliency_shares
from mixcore_plugin_guidedmix.pairing import greedy_cycle, map_distances
from mixcore_plugin_guidedmix.version import __version__

__all__ = [
    "GuidedMix",
    "__version__",
    "greedy_cycle",
    "guided_masks",
    "guidedmix",
    "map_distances",
    "saliency_shares",
]
