"""CutMix: "CutMix: Regularization Strategy to Train Strong Classifiers with Localizable Features", arXiv 1905.04899."""

from __future__ import annotations

import math
from typing import Literal

import attrs
from attrs.validators import ge, in_, le, lt
from torch import Generator, Tensor

from mixcore.api import (
    Box,
    Mix,
    Step,
    beta,
    beta_per_sample,
    box_around,
    boxes_around,
    boxes_lam,
    boxes_of_sides,
    draw_partners,
    happens,
    hookimpl,
    paste_boxes,
    pasted,
    range_of_shares,
    send,
    uniforms,
    unmixed,
)

__all__ = ["CutMix", "cutmix", "cutmix_per_sample"]

MinMax = tuple[float, float]


def cutmix(images: Tensor, partner: Tensor, box: Box, lam: float | None = None, overwrite: bool = False) -> Mix:
    """The partner's pixels inside one box that all images share (steps 5 and 6 of the method).

    `images` [N,C,H,W], `partner` int64 [N] on their device. The label weight is the share of the image outside the box,
    or `lam` where given. `overwrite` writes into `images`; else they are left alone.
    """
    return pasted(images, partner, box, lam, overwrite=overwrite)


def cutmix_per_sample(
    images: Tensor, partner: Tensor, boxes: Tensor, lam: Tensor | None = None, overwrite: bool = False
) -> Mix:
    """:func:`cutmix` with a box for each image: `boxes` int64 [N,4] as (top, bottom, left, right), ends exclusive."""
    mixed, masks = paste_boxes(images, partner, boxes, overwrite=overwrite)
    weight = boxes_lam(boxes, *images.shape[-2:]) if lam is None else lam.float()
    return Mix.pair(mixed, partner, weight, masks)


@attrs.define(eq=False, kw_only=True)
class CutMix:
    """CutMix: a rectangle of each image is replaced by the same rectangle of another one."""

    role = "mix"
    provides = frozenset({"mask"})

    alpha: float = attrs.field(default=1.0, validator=[ge(0), lt(math.inf)])
    """Beta(alpha, alpha) gives the share of the image that the box leaves; 0 turns mixing off."""
    prob: float = attrs.field(default=1.0, validator=[ge(0), le(1)])
    """Chance that a batch is mixed, one draw per batch."""
    correct_lam: bool = True
    """Label weights from the area of the box as clipped by the image; false: the share that was drawn."""
    minmax: MinMax | None = attrs.field(default=None, validator=range_of_shares)
    """Box sides uniform in this range of the image's, such as [0.2, 0.8], in place of `alpha`; lam is then the area."""
    per_sample: bool = False
    """One box per image instead of one for the batch."""
    partner: Literal["permutation", "flip", "derangement"] = attrs.field(
        default="permutation", validator=in_(("permutation", "flip", "derangement"))
    )
    """Who is mixed with whom: a random permutation, the batch reversed, or a permutation that moves every image."""

    @property
    def contract(self) -> dict[str, bool]:
        """Label weights that were drawn are not the mean of the mask."""
        return {"lam_is_mask_mean": self.correct_lam or self.minmax is not None}

    @hookimpl
    def generate_mix(self, images: Tensor, step: Step, rng: Generator) -> Mix:
        """The batch with boxes pasted; the batch itself where mixing is off or `prob` was missed."""
        if (self.alpha == 0 and self.minmax is None) or not happens(self.prob, rng):
            return unmixed(images)
        partner = send(draw_partners(self.partner, images.shape[0], rng), images.device)
        if self.per_sample:
            boxes, lams = self._draw_boxes(images, rng)
            return cutmix_per_sample(images, partner, boxes, lams, overwrite=step.may_overwrite)
        box, lam = self._draw_box(images, rng)
        return cutmix(images, partner, box, lam, overwrite=step.may_overwrite)

    def _draw_box(self, images: Tensor, rng: Generator) -> tuple[Box, float | None]:
        """One box as Python ints, and lam where it is not the box's area."""
        height, width = images.shape[-2:]
        if self.minmax is not None:
            return Box(*boxes_of_sides(self.minmax, uniforms(1, 4, rng=rng), height, width)[0].tolist()), None
        lam = beta(self.alpha, rng)
        vertical, horizontal = uniforms(2, rng=rng).tolist()
        return box_around(lam, (vertical, horizontal), height, width), None if self.correct_lam else lam

    def _draw_boxes(self, images: Tensor, rng: Generator) -> tuple[Tensor, Tensor | None]:
        """A box per image [N,4], and lam [N] where it is not the box's area, on the device of the images."""
        count, _, height, width = images.shape
        if self.minmax is not None:
            return send(boxes_of_sides(self.minmax, uniforms(count, 4, rng=rng), height, width), images.device), None
        lam = beta_per_sample(self.alpha, count, rng)
        boxes = send(boxes_around(lam, uniforms(count, 2, rng=rng), height, width), images.device)
        return boxes, None if self.correct_lam else send(lam.float(), images.device)
