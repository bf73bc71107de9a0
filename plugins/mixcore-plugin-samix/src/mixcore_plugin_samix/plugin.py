"""SAMix: "Boosting Discriminative Visual Representation Learning with Scenario-Agnostic Mixup", arXiv 2111.15454."""

from __future__ import annotations

import math
from typing import Any

import attrs
from attrs.validators import ge, in_, lt
from mixcore_plugin_automix import MASK_LOSSES, LearnedMix, MaskLoss, MixBlock, Upsample, upsample_fits

from mixcore_plugin_samix.block import SAMixBlock

__all__ = ["SAMix"]


def _k_fits(_: object, attribute: attrs.Attribute[Any], value: float) -> None:
    if value != -1 and not 0 <= value < math.inf:
        raise ValueError(f"{attribute.name!r} must be -1 (lam as it is) or at least 0, found {value}")


@attrs.define(eq=False, kw_only=True)
class SAMix(LearnedMix):
    """SAMix: AutoMix's step with a block whose masks follow lam and are made of both images."""

    upsample: tuple[Upsample, ...] = attrs.field(default=("bilinear",), validator=upsample_fits)
    """How masks are enlarged: "nearest", "bilinear"; of several, one is drawn at each call of the block."""
    mask_loss: MaskLoss = attrs.field(default="l1_variance", validator=in_(MASK_LOSSES))
    """What is asked of masks: "l1", "l1_variance", "l2_variance" or "sparsity"."""
    lam_mul: float = attrs.field(default=1.0, validator=[ge(0), lt(math.inf)])
    """How strongly lam scales the maps: times 1 + g(lam) lam_mul, the partner's times 1 + (1 - g(lam)) lam_mul."""
    lam_mul_k: float = attrs.field(default=-1.0, validator=_k_fits)
    """Shape of g: -1 lam as it is, from 0 on flat in the middle, and the straighter the larger (0.25 on CIFAR)."""
    dropout: float = attrs.field(default=0.1, validator=[ge(0), lt(1)])
    """Share of the block's values that are dropped while it trains (0 on CIFAR and Tiny-ImageNet)."""

    def build_block(self, channels: int) -> MixBlock:
        """SAMix's block."""
        return SAMixBlock(
            channels,
            reduction=self.reduction,
            lam_mul=self.lam_mul,
            lam_mul_k=self.lam_mul_k,
            dropout=self.dropout,
            layer_norm=self.layer_norm,
        )
