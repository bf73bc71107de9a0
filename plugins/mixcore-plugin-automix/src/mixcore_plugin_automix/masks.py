"""Masks of the own image, [N,1,H,W] in [0,1]: from the block's logits, brought to a mean, and what is asked of them."""

from __future__ import annotations

from typing import Any, Literal

import attrs
import torch
import torch.nn.functional as F
from torch import Tensor

from mixcore.api import take_rows

__all__ = [
    "MASK_LOSSES",
    "MaskLoss",
    "Upsample",
    "adjust_masks",
    "enlarged",
    "mask_loss",
    "masks_of_logits",
    "mix_by_mask",
    "upsample_fits",
]

Upsample = Literal["nearest", "bilinear"]
MaskLoss = Literal["l1", "l1_variance", "l2_variance", "sparsity"]
MASK_LOSSES: tuple[MaskLoss, ...] = ("l1", "l1_variance", "l2_variance", "sparsity")

TINY = 1e-8
"""How near to 0 and 1 a mask may come before it is rescaled."""


def upsample_fits(_: object, attribute: attrs.Attribute[Any], value: tuple[Upsample, ...]) -> None:
    """Validator of options that list ways of enlarging a mask."""
    if not (value and set(value) <= {"nearest", "bilinear"}):
        raise ValueError(f'{attribute.name!r} must list "nearest", "bilinear" or both, found {list(value)}')


def enlarged(logits: Tensor, size: tuple[int, int], mode: Upsample) -> Tensor:
    """The logits [N,c,h,w] at `size`, [N,c,H,W]: it is they that are enlarged, and not masks."""
    return F.interpolate(logits, size=size, mode=mode, align_corners=False if mode == "bilinear" else None)


def masks_of_logits(logits: Tensor, size: tuple[int, int], mode: Upsample) -> Tensor:
    """Masks [N,1,H,W] from logits [N,1,h,w] of the partner's weight."""
    return torch.sigmoid(-enlarged(logits, size, mode))


def adjust_masks(masks: Tensor, lam: float) -> Tensor:
    """The masks with mean `lam` each: own weights scaled where they are too large, the partner's where too small.

    mu the mean: m lam/mu above lam, 1 - (1-m)(1-lam)/(1-mu) below; stays in [0,1].
    """
    masks = masks.clamp(TINY, 1 - TINY)
    mean = masks.mean((1, 2, 3), keepdim=True)
    larger = 1 - (1 - masks) * ((1 - lam) / (1 - mean))
    return torch.where(mean > lam, masks * (lam / mean), torch.where(mean < lam, larger, masks))


def mix_by_mask(images: Tensor, partner: Tensor, masks: Tensor) -> Tensor:
    """m x + (1-m) x[p], in the dtype of `images` [N,C,H,W]; the gradient flows to the masks [N,1,H,W] alone."""
    return torch.lerp(take_rows(images, partner), images, masks.to(images.dtype))


def mask_loss(kind: MaskLoss, masks: Tensor, lam: float, margin: float) -> Tensor:
    """What is asked of masks, a scalar, before its weight.

    With mu and V mean and population variance over the batch and all pixels: l1 max(|mu-lam| - margin, 0); l1_variance
    that - 2 V; l2_variance max((mu-lam)² - margin², 0) - 2 V; sparsity max(mean(m(1-m)) - margin, 0).
    """
    if kind == "sparsity":
        return ((masks * (1 - masks)).mean() - margin).clamp(min=0)
    away = masks.mean() - lam
    far = (away.square() - margin**2 if kind == "l2_variance" else away.abs() - margin).clamp(min=0)
    return far if kind == "l1" else far - 2 * masks.var(correction=0)
