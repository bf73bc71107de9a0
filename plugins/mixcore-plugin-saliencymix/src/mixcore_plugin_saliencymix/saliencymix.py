"""SaliencyMix: "A Saliency Guided Data Augmentation Strategy for Better Regularization", arXiv 2006.01791."""

from __future__ import annotations

import math

import attrs
import torch
from attrs.validators import ge, le, lt
from torch import Generator, Tensor

from mixcore.api import (
    Mix,
    Probe,
    Saliency,
    as_saliency,
    beta,
    boxes_lam,
    draw_partners,
    happens,
    hookimpl,
    resize_maps,
    select_boxes,
    send,
    unmixed,
)

__all__ = ["SaliencyMix", "boxes_at", "peaks", "saliencymix"]


def peaks(saliency: Tensor, height: int, width: int) -> Tensor:
    """Row and column [N,2] int64 of the first largest value of each map (step 3), in an image of `height` x `width`.

    Maps [N,h,w] of another size are brought to that of the image bilinearly.
    """
    flat = resize_maps(saliency, height, width).flatten(1).argmax(1)
    return torch.stack((flat.div(width, rounding_mode="floor"), flat % width), 1)


def boxes_at(centres: Tensor, lam: float, height: int, width: int) -> Tensor:
    """CutMix's box of area about 1 - lam around each centre [N,2] (row, column), clipped: [N,4] int64 (step 4)."""
    ends: list[Tensor] = []
    for size, middle in zip((height, width), centres.unbind(1), strict=True):
        half = math.floor(size * math.sqrt(1 - lam)) // 2
        ends += ((middle - half).clamp_(min=0), (middle + half).clamp_(max=size))
    return torch.stack(ends, 1)


def saliencymix(images: Tensor, partner: Tensor, centres: Tensor, lam: float) -> Mix:
    """The partner's pixels inside a box around `centres` (steps 4 to 6 of the method).

    `images` [N,C,H,W]; `partner` int64 [N] and `centres` int64 [N,2], the peak of each image's partner, on their
    device; [1,2] for one box that all images share. The label weight is the share of the image outside its clipped box.
    """
    count, _, height, width = images.shape
    boxes = boxes_at(centres, lam, height, width)
    # the boxes come from the batch: selecting leaves them on the device, copying slices would not
    mixed, masks = select_boxes(images, partner, boxes)
    outside = boxes_lam(boxes, height, width).expand(count)
    return Mix.pair(mixed, partner, outside, masks.expand(count, 1, height, width))


@attrs.define(eq=False, kw_only=True)
class SaliencyMix:
    """SaliencyMix: a rectangle around the most salient pixel of the other image is pasted where it was."""

    role = "mix"
    provides = frozenset({"mask"})

    alpha: float = attrs.field(default=1.0, validator=[ge(0), lt(math.inf)])
    """Beta(alpha, alpha) gives the share of the image that the box leaves, one draw per batch; 0: no mixing."""
    prob: float = attrs.field(default=1.0, validator=[ge(0), le(1)])
    """Chance that a batch is mixed, one draw per batch."""
    per_sample_box: bool = True
    """Each box around the peak of that image's own partner; false: one box for the batch, from the first partner."""
    saliency: Saliency = attrs.field(default=Saliency("fine_grained"), converter=as_saliency)
    """Where saliency comes from: any plugin of that role; "onoff8" repeats the published code's on 8-bit images."""

    @hookimpl
    def generate_mix(self, images: Tensor, labels: Tensor, probe: Probe, rng: Generator) -> Mix:
        """The batch with boxes pasted; the batch itself where mixing is off or `prob` was missed."""
        if self.alpha == 0 or not happens(self.prob, rng):
            return unmixed(images)
        count, _, height, width = images.shape
        lam = beta(self.alpha, rng)
        order = draw_partners("permutation", count, rng)
        partner = send(order, images.device)
        if self.per_sample_box:
            centres = peaks(probe.saliency(self.saliency, images, labels), height, width).index_select(0, partner)
        else:
            first = slice(int(order[0]), int(order[0]) + 1)
            centres = peaks(probe.saliency(self.saliency, images[first], labels[first]), height, width)
        return saliencymix(images, partner, centres, lam)
