"""Manifold Mixup: "Better Representations by Interpolating Hidden States", ICML 2019, arXiv 1806.05236."""

from __future__ import annotations

import functools
import math
from typing import Any

import attrs
import torch
from attrs.validators import ge, le, lt
from torch import Generator, Tensor

from mixcore.api import Mix, Step, beta, blend, draw_partners, happens, hookimpl, send, take_rows, unmixed

__all__ = ["ManifoldMix", "mix_features"]

DEEPEST = 3


class _MixFeatures(torch.autograd.Function):
    """Forward and backward are one gather and one lerp each.

    torch's own backward of a gather adds rows into zeros, which on the CPU takes 1.3 to 10 times as long as the whole
    of this one (benchmark in the README) and is not deterministic on an accelerator.
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


def mix_features(features: Tensor, partner: Tensor, inverse: Tensor, lam: float) -> Tensor:
    """lam·h + (1-lam)·h[partner] (step 3 of the method), in the dtype and memory format of h; gradients flow to both.

    `features` [N,...] are the output of a stage: maps [N,C,h,w] or [N,h,w,C], or tokens [N,P+T,D], prefix included.
    `partner` int64 [N] is a permutation and `inverse` its inverse, both on the device of the features. The gradient of
    h[i] is lam·g[i] + (1-lam)·g[j], j being the row whose partner is i.
    """
    mixed: Tensor = _MixFeatures.apply(features, partner, inverse, lam)
    return mixed


def _layers_fit(_: object, attribute: attrs.Attribute[tuple[int | str, ...]], value: tuple[int | str, ...]) -> None:
    if not value or len(set(value)) < len(value) or not all(map(_is_layer, value)):
        raise ValueError(
            f"{attribute.name!r} must be different stages from 0 (the input) to {DEEPEST}, such as [0, 1, 2], or names "
            f'of modules, such as [0, "layer1"], found {list(value)}'
        )


def _is_layer(layer: int | str) -> bool:
    return bool(layer) if isinstance(layer, str) else 0 <= layer <= DEEPEST


@attrs.define(eq=False, kw_only=True)
class ManifoldMix:
    """Manifold Mixup: images, or the maps of an early stage drawn anew each time, are blended with another image's."""

    role = "mix"

    alpha: float = attrs.field(default=2.0, validator=[ge(0), lt(math.inf)])
    """Ratios come from Beta(alpha, alpha), one per batch: large values lie near 1/2, 1 is uniform, 0: no mixing."""
    layers: tuple[int | str, ...] = attrs.field(default=(0, 1, 2), validator=_layers_fit)
    """Stages, one of them drawn per iteration: 0 the input, k the output of stage k, or the name of a module."""
    prob: float = attrs.field(default=1.0, validator=[ge(0), le(1)])
    """Chance that a batch is mixed, one draw per batch."""

    @property
    def stages(self) -> tuple[int | str, ...]:
        """Where it mixes inside the network."""
        return tuple(layer for layer in self.layers if layer)

    @hookimpl
    def generate_mix(self, images: Tensor, step: Step, rng: Generator) -> Mix:
        """Blended images, or images to be blended at a stage; the batch as it is where `prob` was missed."""
        stage = self._draw_stage(step)
        if self.alpha == 0 or not happens(self.prob, rng):
            # all groups of a batch name the same stage, those that do not mix there too
            return attrs.evolve(unmixed(images), stage=stage)
        count, device = images.shape[0], images.device
        lam = beta(self.alpha, rng)
        order = draw_partners("permutation", count, rng)
        partner = send(order, device)
        mask = torch.full((1, 1, 1, 1), lam, dtype=torch.float32, device=device).expand(count, 1, 1, 1)
        if stage is None:
            return Mix.pair(blend(images, partner, lam, overwrite=step.may_overwrite), partner, lam, mask)
        inverse = send(order.argsort(), device)
        transform = functools.partial(mix_features, partner=partner, inverse=inverse, lam=lam)
        return Mix.pair(images, partner, lam, mask, stage=stage, transform=transform)

    def _draw_stage(self, step: Step) -> int | str | None:
        """The same on all processes and in all groups; None for the input."""
        index = torch.randint(len(self.layers), (), generator=step.shared_rng("manifoldmix stage"), device="cpu")
        return self.layers[int(index)] or None
