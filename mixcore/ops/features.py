"""Feature maps of two rows of the batch, put together with gradients to both."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from mixcore.ops.combine import blended, take_rows
from mixcore.ops.draws import send
from mixcore.types import Mix, Stage

__all__ = ["blend_features", "blended_at", "mixed_at", "permute_features"]


class _Blend(torch.autograd.Function):
    """Forward and backward are one gather and one lerp each.

    torch's own backward of a gather adds rows into zeros, which on the CPU takes 1.3 to 10 times as long as the whole
    of this one (benchmark in the README of mixcore-plugin-manifoldmix) and is not deterministic on an accelerator.
    """

    @staticmethod
    def forward(ctx: Any, features: Tensor, partner: Tensor, inverse: Tensor, lam: float) -> Tensor:
        ctx.save_for_backward(inverse)
        ctx.lam = lam
        return torch.lerp(take_rows(features, partner), features, lam)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        (inverse,) = ctx.saved_tensors
        (gradient,) = gradients
        return torch.lerp(take_rows(gradient, inverse), gradient, ctx.lam), None, None, None


class _Permute(torch.autograd.Function):
    """A gather whose backward is the gather by the inverse permutation: as above, and nothing is added."""

    @staticmethod
    def forward(ctx: Any, features: Tensor, partner: Tensor, inverse: Tensor) -> Tensor:
        ctx.save_for_backward(inverse)
        return take_rows(features, partner)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (inverse,) = ctx.saved_tensors
        return take_rows(gradients[0], inverse), None, None


def blend_features(features: Tensor, partner: Tensor, inverse: Tensor, lam: float) -> Tensor:
    """lam·h + (1-lam)·h[partner], in the dtype and memory format of h; gradients flow to both.

    `features` [N,...] are the output of a stage: maps [N,C,h,w] or [N,h,w,C], or tokens [N,P+T,D], prefix included.
    `partner` int64 [N] is a permutation and `inverse` its inverse, both on the device of the features. The gradient of
    h[i] is lam·g[i] + (1-lam)·g[j], j being the row whose partner is i.
    """
    mixed: Tensor = _Blend.apply(features, partner, inverse, lam)
    return mixed


def permute_features(features: Tensor, partner: Tensor, inverse: Tensor) -> Tensor:
    """h[partner] of a stage's output [N,...], with its gradient; `partner` and `inverse` as in `blend_features`."""
    permuted: Tensor = _Permute.apply(features, partner, inverse)
    return permuted


def blended_at(stage: Stage | None, images: Tensor, order: Tensor, lam: float, overwrite: bool = False) -> Mix:
    """The mix by one ratio at `stage`, where the map is blended; of the images themselves where it is None.

    `order` int64 [N] is a permutation on the CPU, the partner of each row; `lam` in [0,1] is the image's own weight.
    The mask is lam itself, at 1x1. `overwrite` writes into `images`, where they are what is blended.
    """
    if stage is None:
        return blended(images, send(order, images.device), lam, overwrite=overwrite)
    return mixed_at(stage, images, order, lam, functools.partial(blend_features, lam=lam))


def mixed_at(stage: Stage, images: Tensor, order: Tensor, lam: float, mix: Callable[..., Tensor]) -> Mix:
    """The mix of the map at `stage` by `mix(features, partner=, inverse=)`, labels weighted by `lam`.

    `order` and the mask as in `blended_at`; `partner` and `inverse` int64 [N] on the device of the images.
    """
    partner, inverse = send(order, images.device), send(order.argsort(), images.device)
    mask = torch.full((1, 1, 1, 1), lam, dtype=torch.float32, device=images.device).expand(len(order), 1, 1, 1)
    transform = functools.partial(mix, partner=partner, inverse=inverse)
    return Mix.pair(images, partner, lam, mask, stage=stage, transform=transform)
