"""AutoMix for mixcore: a small block learns where to mix, from what a momentum copy of the network sees."""

from __future__ import annotations

from mixcore_plugin_automix.block import AutoMixBlock, Call, Draw, LearnedBlock, MixBlock, cross_attention
from mixcore_plugin_automix.generator import judged, settle_terms
from mixcore_plugin_automix.learned import LearnedMix
from mixcore_plugin_automix.masks import (
    MASK_LOSSES,
    MaskLoss,
    Upsample,
    adjust_masks,
    enlarged,
    mask_loss,
    masks_of_logits,
    mix_by_mask,
    upsample_fits,
)
from mixcore_plugin_automix.momentum import MomentumMix, block_of, one_of
from mixcore_plugin_automix.options import non_negative, positive, share
from mixcore_plugin_automix.plugin import AutoMix
from mixcore_plugin_automix.schedules import MaskSchedule, ema_momentum, first_weights_left, mask_weight
from mixcore_plugin_automix.version import __version__

__all__ = [
    "MASK_LOSSES",
    "AutoMix",
    "AutoMixBlock",
    "Call",
    "Draw",
    "LearnedBlock",
    "LearnedMix",
    "MaskLoss",
    "MaskSchedule",
    "MixBlock",
    "MomentumMix",
    "Upsample",
    "__version__",
    "adjust_masks",
    "block_of",
    "cross_attention",
    "ema_momentum",
    "enlarged",
    "first_weights_left",
    "judged",
    "mask_loss",
    "mask_weight",
    "masks_of_logits",
    "mix_by_mask",
    "non_negative",
    "one_of",
    "positive",
    "settle_terms",
    "share",
    "upsample_fits",
]
