"""Saliency Grafting: "Innocuous Attribution-Guided Mixup with Calibrated Label Mixing", AAAI 2022, arXiv 2112.08796.

N images, n blocks a side. A reconstruction; the README says of what.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import attrs
from attrs.validators import ge, gt, le, lt, optional
from torch import Generator, Tensor

from mixcore.api import (
    ConfigError,
    Mix,
    OptionValueError,
    Probe,
    Saliency,
    Task,
    as_saliency,
    beta,
    cells_to_pixels,
    draw_partners,
    happens,
    hookimpl,
    select_pixels,
    send,
    uniforms,
    unmixed,
)
from mixcore_plugin_saliencygrafting.grid import block_saliency, dividing_blocks, salient_blocks

__all__ = ["SaliencyGrafting", "saliencygrafting"]


def saliencygrafting(images: Tensor, partner: Tensor, grafts: Tensor) -> Mix:
    """The partner's blocks where `grafts` says so (step 6 of the method).

    `images` [N,C,H,W], `partner` int64 [N] and `grafts` bool [N,n,n] on their device, n a divisor of H and W. The mask
    is n x n, the label weight its mean.
    """
    theirs = cells_to_pixels(grafts[:, None], *images.shape[-2:])
    mask = grafts.logical_not().float()
    return Mix.pair(select_pixels(images, partner, theirs), partner, mask.mean((1, 2)), mask[:, None])


@attrs.define(eq=False, kw_only=True)
class SaliencyGrafting:
    """Saliency Grafting: blocks drawn at random among the salient ones of another image are pasted where they were."""

    role = "mix"
    spec_version = (1, 2)
    provides = frozenset({"mask"})
    suggests = {"labels": "saliencygrafting_labels"}
    contract = {"extremes": {"alpha": 1e-6, "saliency": "uniform"}}

    alpha: float = attrs.field(default=2.0, validator=[ge(0), lt(math.inf)])
    """Beta(alpha, alpha) gives the chance of a salient block to be grafted, one draw per batch; 0: no mixing."""
    p_fixed: float | None = attrs.field(default=None, validator=optional([ge(0), le(1)]))
    """That chance itself, in place of the draw."""
    prob: float = attrs.field(default=1.0, validator=[ge(0), le(1)])
    """Chance that a batch is mixed, one draw per batch."""
    n: int | None = attrs.field(default=None, validator=optional(ge(2)))
    """Blocks a side, a divisor of both sides of the images; absent: 4, 8 or 7 by their size, or the nearest divisor."""
    temperature: float = attrs.field(default=0.2, validator=[gt(0), lt(math.inf)])
    """Of the softmax over blocks: the smaller, the fewer blocks are salient."""
    sigma: float = attrs.field(default=1.0, validator=[ge(0), lt(math.inf)])
    """A block is salient from so many times the mean share on; 0: all blocks are. The most salient one always is."""
    saliency: Saliency = attrs.field(default=Saliency("feature"), converter=as_saliency)
    """Where saliency comes from: any plugin of that role."""

    @hookimpl
    def check(self, task: Task) -> Sequence[str] | None:
        """ConfigError where the images have no such grid."""
        try:
            self._blocks(*task.image_size)
        except OptionValueError as error:
            raise ConfigError(str(error)) from error
        return None

    @hookimpl
    def generate_mix(self, images: Tensor, labels: Tensor, probe: Probe, rng: Generator) -> Mix:
        """The batch with blocks grafted, masks at n x n; the batch itself where mixing is off or `prob` was missed."""
        if (self.alpha == 0 and self.p_fixed is None) or not happens(self.prob, rng):
            return unmixed(images)
        count, _, height, width = images.shape
        blocks = self._blocks(height, width)
        partner = send(draw_partners("permutation", count, rng), images.device)
        chance = beta(self.alpha, rng) if self.p_fixed is None else self.p_fixed
        drawn = send(uniforms(count, blocks, blocks, rng=rng) < chance, images.device)
        saliency = block_saliency(probe.saliency(self.saliency, images, labels), blocks)
        salient = salient_blocks(saliency, self.temperature, self.sigma)
        return saliencygrafting(images, partner, drawn & salient[partner])

    def _blocks(self, height: int, width: int) -> int:
        """Blocks a side; OptionValueError where these do not divide the image."""
        usual = dividing_blocks(height, width)
        if usual == 1:
            raise OptionValueError(
                f"saliencygrafting cuts images into blocks, found images of {height}x{width}, whose sides have no "
                "common divisor; resize or crop them, to 32x32 or 224x224 say"
            )
        blocks = usual if self.n is None else self.n
        if height % blocks or width % blocks:
            raise OptionValueError(
                f"saliencygrafting: n = {blocks} does not divide images of {height}x{width}; take a divisor of both "
                f"sides, such as n = {usual}, or leave n out"
            )
        return blocks
