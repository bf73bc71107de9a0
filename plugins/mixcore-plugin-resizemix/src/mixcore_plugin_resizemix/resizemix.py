"""ResizeMix: "ResizeMix: Mixing Data with Preserved Object Information and True Labels", arXiv 2012.11101."""

from __future__ import annotations

import math
from typing import Any, Literal

import attrs
import torch
from attrs.validators import ge, gt, in_, le, lt
from torch import Generator, Tensor

from mixcore.api import Box, Mix, Step, beta_per_sample, draw_partners, happens, hookimpl, send, uniforms, unmixed
from mixcore_plugin_resizemix.pasting import Interpolation, resizemix_boxes, resizemix_one_box, resizemix_one_size

__all__ = ["ResizeMix", "clipped_boxes", "shifted_boxes"]


def shifted_boxes(scales: Tensor, centres: Tensor, height: int, width: int) -> Tensor:
    """Boxes that are moved into the image, so that they have their whole size (step 4 of the method): [N,4] int64.

    `scales` float64 [n] in [0,1], the box's sides as parts of the image's, at least a pixel; `centres` int64 [m,2]
    (row, column) of pixels; n and m are N or 1. The result is (top, bottom, left, right), ends exclusive.
    """
    ends: list[Tensor] = []
    for size, centre in zip((height, width), centres.unbind(1), strict=True):
        side = (scales * size).long().clamp_(1)
        bottom = ((centre - side // 2).clamp_(0) + side).clamp_(max=size)
        ends += (bottom - side, bottom)
    return torch.stack(ends, 1)


def clipped_boxes(scales: Tensor, centres: Tensor, height: int, width: int) -> Tensor:
    """Boxes as in :func:`shifted_boxes`, but cut off by the image: half a side, rounded down, on either side.

    Empty where the side is below 2.
    """
    ends: list[Tensor] = []
    for size, centre in zip((height, width), centres.unbind(1), strict=True):
        half = (scales * size).long() // 2
        ends += ((centre - half).clamp_(0, size), (centre + half).clamp_(0, size))
    return torch.stack(ends, 1)


def _scope(instance: object, attribute: attrs.Attribute[Any], value: tuple[float, float]) -> None:  # noqa: ARG001
    """Validator for attrs: two shares in order, the same one allowed."""
    if not 0 <= value[0] <= value[1] <= 1:
        raise ValueError(
            f"{attribute.name!r} must be two shares [low, high] with 0 <= low <= high <= 1, such as [0.1, 0.8]; "
            f"found {list(value)}"
        )


@attrs.define(eq=False, kw_only=True)
class ResizeMix:
    """ResizeMix: another image, whole and shrunk, is pasted at a random place."""

    role = "mix"
    provides = frozenset({"mask"})
    contract = {"partner_pixels": False, "extremes": {"scope": [1.0, 1.0]}}

    scope: tuple[float, float] = attrs.field(default=(0.1, 0.8), validator=_scope)
    """The patch's sides, as parts of the image's, are uniform in this range."""
    use_beta: bool = False
    """Those parts from Beta(alpha, alpha) instead, drawn anew, uniformly in `scope`, where outside of it."""
    alpha: float = attrs.field(default=1.0, validator=[gt(0), lt(math.inf)])
    """The law of `use_beta`; without it, it changes nothing."""
    interpolation: Interpolation = attrs.field(default="nearest", validator=in_(("nearest", "bilinear")))
    """How the other image is made smaller."""
    box: Literal["shift", "clip"] = attrs.field(default="shift", validator=in_(("shift", "clip")))
    """At the image's edges: "shift" moves the patch inside, "clip" cuts its box and shrinks the image into the rest."""
    per_sample_pos: bool = True
    """A place per image; false: one for the batch."""
    per_sample: bool = False
    """A scale per image instead of one for the batch."""
    prob: float = attrs.field(default=1.0, validator=[ge(0), le(1)])
    """Chance that a batch is mixed, one draw per batch."""

    @hookimpl
    def generate_mix(self, images: Tensor, step: Step, rng: Generator) -> Mix:
        """The batch with patches pasted; the batch itself where `prob` was missed or one box for all is empty."""
        if not happens(self.prob, rng):
            return unmixed(images)
        count, _, height, width = images.shape
        partner = send(draw_partners("permutation", count, rng), images.device)
        boxes = self._draw_boxes(count, height, width, rng)
        how, overwrite = self.interpolation, step.may_overwrite
        first = Box(*boxes[0].tolist())
        if len(boxes) == 1:
            return resizemix_one_box(images, partner, first, how, overwrite)
        if self.box == "shift" and not self.per_sample:
            size = (first.bottom - first.top, first.right - first.left)
            return resizemix_one_size(images, partner, send(boxes[:, ::2], images.device), size, how, overwrite)
        return resizemix_boxes(images, partner, boxes, how, overwrite)

    def _draw_boxes(self, count: int, height: int, width: int, rng: Generator) -> Tensor:
        """A box per image, or one for all where all have the same scale and place: [N or 1,4] int64 on the CPU."""
        scales = self._draw_scales(count if self.per_sample else 1, rng)
        places = uniforms(count if self.per_sample_pos else 1, 2, rng=rng)
        centres = places.mul_(places.new_tensor((height, width))).long()
        return (shifted_boxes if self.box == "shift" else clipped_boxes)(scales, centres, height, width)

    def _draw_scales(self, count: int, rng: Generator) -> Tensor:
        """Sides of boxes as parts of the image's: [count] float64 on the CPU."""
        low, high = self.scope
        inside = uniforms(count, rng=rng).mul_(high - low).add_(low)
        if not self.use_beta:
            return inside
        scales = beta_per_sample(self.alpha, count, rng)
        return torch.where((scales >= low) & (scales <= high), scales, inside)
