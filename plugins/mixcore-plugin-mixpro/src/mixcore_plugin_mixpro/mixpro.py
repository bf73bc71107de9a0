"""MaskMix, the mixer of MixPro: random cells of whole patches from each of two images (arXiv 2304.12043)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

import attrs
from attrs.validators import ge, gt, in_, le, lt, optional
from mixcore_plugin_mixup_cutmix import MixupCutMix
from torch import Generator, Tensor, nn

from mixcore.api import (
    Mix,
    Part,
    Probe,
    Step,
    Task,
    beta,
    cells_to_pixels,
    draw_partners,
    happens,
    hookimpl,
    patch_side,
    select_pixels,
    send,
    uniforms,
)
from mixcore_plugin_mixpro.cells import cell_side, cells_by_draw, cells_on_units

__all__ = ["BY_DRAW", "MixPro", "maskmix"]

AreaRule = Literal["mask", "cells"]
BY_DRAW = "mixpro_by_draw"
"""The note of a Mixup or CutMix batch: its label weights are those that were drawn, which attention leaves alone."""


def maskmix(images: Tensor, partner: Tensor, cells: Tensor, side: int, area: AreaRule = "mask") -> Mix:
    """Each image in its own cells of `side` pixels, its partner in the others (steps 3 and 4 of the method).

    `images` [N,C,H,W], `partner` int64 [N] on their device, `cells` bool [N,rows,columns] on the host. The label weight
    is the mean of the mask, or the share of the cells, whatever part of them lies inside the image.
    """
    height, width = images.shape[-2:]
    own = cells_on_units(cells, side, height, width)
    lam = (own if area == "mask" else cells).double().mean((1, 2)).float()
    own = send(own, images.device)[:, None]
    mixed = select_pixels(images, partner, cells_to_pixels(~own, height, width))
    return Mix.pair(mixed, partner, send(lam, images.device), own.float())


@attrs.define(eq=False, kw_only=True)
class MixPro:
    """MaskMix: random cells of whole patches are the partner's, others in each image; in turn with Mixup or CutMix."""

    role = "mix"
    provides = frozenset({"mask"})
    suggests = {"labels": "mixpro_labels"}

    alpha: float = attrs.field(default=1.0, validator=[gt(0), lt(math.inf)])
    """Beta(alpha, alpha) gives the share of cells that images keep, one draw per batch; at least one cell is kept."""
    cell: int | None = attrs.field(default=None, validator=optional(ge(1)))
    """Side of a cell in pixels, whole patches; absent: a quarter of the image's shorter side, rounded up to patches."""
    area: AreaRule = attrs.field(default="mask", validator=in_(("mask", "cells")))
    """Area by the "mask", or by the number of "cells", which miscounts those that the image's edge cuts (OpenMixup)."""
    switch_prob: float = attrs.field(default=0.5, validator=[gt(0), le(1)])
    """Chance that a batch is MaskMix's; the others are Mixup's or CutMix's, half each."""
    mixup_alpha: float = attrs.field(default=0.8, validator=[ge(0), lt(math.inf)])
    """Beta(alpha, alpha) gives the ratio of a Mixup batch; 0: no Mixup."""
    cutmix_alpha: float = attrs.field(default=1.0, validator=[ge(0), lt(math.inf)])
    """Beta(alpha, alpha) gives the share that the box of a CutMix batch leaves; 0: no CutMix."""

    def __attrs_post_init__(self) -> None:
        """Refuses what the other mixer refuses, before it has its first turn."""
        self._other()

    def _other(self) -> MixupCutMix:
        return MixupCutMix(mixup_alpha=self.mixup_alpha, cutmix_alpha=self.cutmix_alpha)

    @property
    def contract(self) -> dict[str, bool]:
        """Counted cells are not the mean of the mask where the image's edge cuts some."""
        return {"lam_is_mask_mean": self.area == "mask"}

    @hookimpl
    def build_modules(self, model: nn.Module, task: Task) -> Mapping[str, Part]:
        """No part; refuses cells that do not fit the network's patches before anything is trained."""
        cell_side(self.cell, patch_side(model), *task.image_size)
        return {}

    @hookimpl
    def generate_mix(self, images: Tensor, probe: Probe, step: Step, rng: Generator) -> Mix:
        """The batch mixed with a permutation of itself; with itself reversed in a turn of Mixup or CutMix."""
        if not happens(self.switch_prob, step.shared_rng("mixpro")):
            mix = self._other().generate_mix(images=images, step=step, rng=rng)
            return attrs.evolve(mix, notes={BY_DRAW: mix.lam})
        count, _, height, width = images.shape
        side = cell_side(self.cell, patch_side(probe.model), height, width)
        rows, columns = -(-height // side), -(-width // side)
        kept = max(1, math.ceil(beta(self.alpha, rng) * rows * columns))
        cells = cells_by_draw(uniforms(count, rows * columns, rng=rng), kept, rows, columns)
        partner = send(draw_partners("permutation", count, rng), images.device)
        return maskmix(images, partner, cells, side, self.area)
