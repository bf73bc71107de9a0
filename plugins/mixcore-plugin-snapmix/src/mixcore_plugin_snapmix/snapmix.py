"""SnapMix: "SnapMix: Semantically Proportional Mixing for Augmenting Fine-grained Data", arXiv 2012.04846."""

from __future__ import annotations

import math
from typing import Literal

import attrs
import torch
from attrs.validators import ge, in_, le, lt
from torch import Generator, Tensor

from mixcore.api import (
    Box,
    Mix,
    Probe,
    Saliency,
    Step,
    as_saliency,
    beta,
    beta_per_sample,
    box_around,
    box_lam,
    box_mask,
    boxes_around,
    boxes_lam,
    boxes_lines,
    crossings_mask,
    draw_partners,
    happens,
    hookimpl,
    send,
    uniforms,
    unmixed,
)
from mixcore_plugin_snapmix.pasting import paste_resized, paste_resized_each
from mixcore_plugin_snapmix.semantic import counted_twice, label_weights, semantic_maps

__all__ = ["SnapMix", "snapmix", "snapmix_per_sample"]

NOWHERE = Box(0, 0, 0, 0)


def snapmix(
    images: Tensor, partner: Tensor, into: Box, out_of: Box, activation: Tensor, overwrite: bool = False
) -> Mix:
    """The partner's box `out_of` resized into the box `into`, for all images the same (steps 4 to 8 of the method).

    `images` [N,C,H,W], `partner` int64 [N] and `activation` [N,h,w] on their device. Labels are weighted by the shares
    of each image's own activation: those of the two of a pair need not sum to 1. Where a box is empty nothing is mixed.
    `overwrite` writes into `images`; else they are left alone.
    """
    count, _, height, width = images.shape
    if into.empty or out_of.empty:
        into = out_of = NOWHERE
    maps, told = semantic_maps(activation, height, width)
    hidden = maps[:, into.top : into.bottom, into.left : into.right].sum((1, 2))
    shown = maps[:, out_of.top : out_of.bottom, out_of.left : out_of.right].sum((1, 2))[partner]
    outside = box_lam(into, height, width)
    weights = label_weights(hidden, shown, told, partner, 1 - outside)
    mixed = paste_resized(images, partner, into, out_of, overwrite)
    mask = box_mask(into, height, width, images.device).expand(count, 1, height, width)
    return attrs.evolve(Mix.pair(mixed, partner, outside, mask), weights=weights)


def snapmix_per_sample(
    images: Tensor, partner: Tensor, into: Tensor, out_of: Tensor, activation: Tensor, overwrite: bool = False
) -> Mix:
    """:func:`snapmix` with boxes for each image, int64 [N,4] as (top, bottom, left, right), ends exclusive."""
    height, width = images.shape[-2:]
    filled = (_filled(into) & _filled(out_of))[:, None]
    into, out_of = into * filled, out_of * filled
    maps, told = semantic_maps(activation, height, width)
    lines = boxes_lines(into, height, width)
    outside = boxes_lam(into, height, width)
    hidden = _shares(maps, *lines)
    shown = _shares(maps[partner], *boxes_lines(out_of, height, width))
    weights = label_weights(hidden, shown, told, partner, 1 - outside)
    mixed = paste_resized_each(images, partner, into, out_of, overwrite)
    return attrs.evolve(Mix.pair(mixed, partner, outside, crossings_mask(*lines)), weights=weights)


def _filled(boxes: Tensor) -> Tensor:
    """Which of the boxes [N,4] cover a pixel: bool [N]."""
    return (boxes[:, 1::2] > boxes[:, ::2]).all(1)


def _shares(maps: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Sum [N] of each map [N,H,W] where a row, bool [N,H], crosses a column, bool [N,W]."""
    along = torch.bmm(maps, columns.float()[:, :, None])[:, :, 0]
    return (along * rows).sum(1)


@attrs.define(eq=False, kw_only=True)
class SnapMix:
    """SnapMix: a box of another image is resized into a box elsewhere, labels go by the class activation in each."""

    role = "mix"
    spec_version = (1, 2)
    provides = frozenset({"mask"})
    accepts = frozenset({"class", "soft", "multi_label"})
    contract = {"weights_sum_to_one": False, "lam_is_mask_mean": False, "partner_pixels": False}

    alpha: float = attrs.field(default=5.0, validator=[ge(0), lt(math.inf)])
    """Beta(alpha, alpha) gives the shares of the image that the two boxes leave, one draw for each; 0: no mixing."""
    prob: float = attrs.field(default=1.0, validator=[ge(0), le(1)])
    """Chance that a batch is mixed, one draw per batch."""
    same_label: Literal["once", "double"] = attrs.field(default="once", validator=in_(("once", "double")))
    """Of two images of one class: "once" gives it the sum of the two weights, "double" twice that, as published."""
    per_sample: bool = False
    """Two boxes per image instead of two for the batch."""
    saliency: Saliency = attrs.field(default=Saliency("class_activation_shifted"), converter=as_saliency)
    """Where meaning is: any plugin of role saliency."""

    @hookimpl
    def generate_mix(self, images: Tensor, labels: Tensor, probe: Probe, step: Step, rng: Generator) -> Mix:
        """The batch with boxes pasted; the batch itself where mixing is off or `prob` was missed."""
        # a look in train mode is one that all processes take together: `prob` is one draw for all of them, and boxes
        # that are empty spare none of them the look
        if self.alpha == 0 or not happens(self.prob, step.shared_rng("snapmix prob")):
            return unmixed(images)
        partner = send(draw_partners("permutation", images.shape[0], rng), images.device)
        activation = probe.saliency(self.saliency, images, labels)
        if self.per_sample:
            into, out_of = (self._draw_boxes(images, rng) for _ in range(2))
            mix = snapmix_per_sample(images, partner, into, out_of, activation, step.may_overwrite)
        else:
            first, second = (self._draw_box(images, rng) for _ in range(2))
            mix = snapmix(images, partner, first, second, activation, step.may_overwrite)
        if self.same_label == "once":
            return mix
        return attrs.evolve(mix, weights=counted_twice(mix.weights, labels, partner))

    def _draw_box(self, images: Tensor, rng: Generator) -> Box:
        lam = beta(self.alpha, rng)
        vertical, horizontal = uniforms(2, rng=rng).tolist()
        return box_around(lam, (vertical, horizontal), *images.shape[-2:])

    def _draw_boxes(self, images: Tensor, rng: Generator) -> Tensor:
        """A box per image [N,4], on the device of the images."""
        count, _, height, width = images.shape
        lam = beta_per_sample(self.alpha, count, rng)
        return send(boxes_around(lam, uniforms(count, 2, rng=rng), height, width), images.device)
