"""AutoMix for mixcore: a small block learns where to mix, from what a momentum copy of the network sees."""

from __future__ import annotations

from mixcore_plugin_automix.block import AutoMixBlock, Draw, MixBlock, cross_attention
from mixcore_plugin_automix.learned import LearnedMix, upsample_fits
from mixcore_plugin_automix.masks import (
    MASK_LOSSES,
    MaskLoss,
    Upsample,
    adjust_masks,
    mask_loss,
    masks_of_logits,
    mix_by_mask,
)
from mixcore_plugin_automix.plugin import AutoMix
from mixcore_plugin_automix.schedules import MaskSchedule, ema_momentum, first_weights_left, mask_weight
from mixcore_plugin_automix.version import __version__

__all__ = [
    "MASK_LOSSES",
    "AutoMix",
    "AutoMixBlock",
    "Draw",
    "LearnedMix",
    "MaskLoss",
    "MaskSchedule",
    "MixBlock",
    "Upsample",
    "__version__",
    "adjust_masks",
    "cross_attention",
    "ema_momentum",
    "first_weights_left",
    "mask_loss",
    "mask_weight",
    "masks_of_logits",
    "mix_by_mask",
    "upsample_fits",
]
