"""Manifold Mixup: "Better Representations by Interpolating Hidden States", ICML 2019, arXiv 1806.05236."""

from __future__ import annotations

import math

import attrs
import torch
from attrs.validators import ge, le, lt
from torch import Generator, Tensor

from mixcore.api import Mix, Step, beta, blended_at, draw_partners, early_stages, happens, hookimpl, unmixed

__all__ = ["ManifoldMix"]


@attrs.define(eq=False, kw_only=True)
class ManifoldMix:
    """Manifold Mixup: images, or the maps of an early stage drawn anew each time, are blended with another image's."""

    role = "mix"

    alpha: float = attrs.field(default=2.0, validator=[ge(0), lt(math.inf)])
    """Ratios come from Beta(alpha, alpha), one per batch: large values lie near 1/2, 1 is uniform, 0: no mixing."""
    layers: tuple[int | str, ...] = attrs.field(default=(0, 1, 2), validator=early_stages)
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
        lam = beta(self.alpha, rng)
        order = draw_partners("permutation", images.shape[0], rng)
        return blended_at(stage, images, order, lam, overwrite=step.may_overwrite)

    def _draw_stage(self, step: Step) -> int | str | None:
        """The same on all processes and in all groups; None for the input."""
        index = torch.randint(len(self.layers), (), generator=step.shared_rng("manifoldmix stage"), device="cpu")
        return self.layers[int(index)] or None
