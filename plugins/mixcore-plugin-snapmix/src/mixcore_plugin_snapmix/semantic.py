"""Label weights by meaning: how much of a class activation map a box takes away, and how much another one brings.

N images of H x W pixels.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mixcore.api import resize_maps

__all__ = ["counted_twice", "label_weights", "semantic_maps"]


@torch.no_grad()
def semantic_maps(activation: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """The share of each pixel in an image's class activation, and whether the map says anything (step 1 of the method).

    `activation` [N,h,w] of any range is enlarged bilinearly; above its minimum, over its sum, it is [N,height,width]
    float32 >= 0 with sum 1. Of a map that is the same everywhere, or not finite, the bool [N] is False.
    """
    # lowered before it is enlarged as well: rounding in between would make a map of noise out of a constant one
    maps = resize_maps(activation - activation.amin((1, 2), keepdim=True), height, width)
    maps.sub_(maps.amin((1, 2), keepdim=True))
    total = maps.sum((1, 2), keepdim=True)
    told = (total > 0) & total.isfinite()
    return maps.mul_(torch.where(told, 1 / total, 0.0)), told.flatten()


def label_weights(hidden: Tensor, shown: Tensor, told: Tensor, partner: Tensor, area: Tensor | float) -> Tensor:
    """Weights [N,2] float32 in [0,1] of an image's own label and of its partner's; rows need not sum to 1 (steps 6, 8).

    `hidden` [N], what of an image's map lies in the box that is pasted over, and `shown` [N], what of its partner's map
    lies in the box that is pasted. Where a map told nothing (`told`, bool [N]) the label goes by `area`, the share of
    the image that is pasted over.
    """
    taken = torch.where(told, hidden, area)
    given = torch.where(told[partner], shown, area)
    return torch.stack((1 - taken, given), 1).clamp_(0, 1)


def counted_twice(weights: Tensor, labels: Tensor, partner: Tensor) -> Tensor:
    """Weights [N,2] as the published code has them: where both labels are the same, each has the sum of the two.

    `labels` int64 [N] or float [N,K], the same where their rows are.
    """
    same = labels == labels[partner]
    if same.ndim > 1:
        same = same.all(1)
    return torch.where(same[:, None], weights.sum(1, keepdim=True), weights)
