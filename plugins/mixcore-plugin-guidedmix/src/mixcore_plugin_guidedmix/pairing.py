"""Who is mixed with whom: a cycle through all images along which neighbours differ in where they are salient (step 3).

N images. The pairs follow from the maps, so they stay on the device: nothing is read on the host.
"""

from __future__ import annotations

import math
from typing import Literal, TypeAlias

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["Distance", "greedy_cycle", "map_distances"]

Distance: TypeAlias = Literal["l2", "l1", "cosine"]
"""How far two maps lie apart: Euclidean, sum of differences, or one minus the cosine between them."""


@torch.no_grad()
def map_distances(maps: Tensor, distance: Distance = "l2") -> Tensor:
    """How far each two of the maps [N,H,W] float32 lie apart: [N,N] >= 0, without a tensor [N,N,H,W]."""
    flat = maps.flatten(1)
    if distance == "cosine":
        flat = F.normalize(flat, dim=1)
        return (1 - flat @ flat.T).clamp_(min=0)
    # what all have in common is no difference, and leaves small ones to the rounding of products
    flat = flat - flat.mean(0)
    return torch.cdist(flat, flat, p=2.0 if distance == "l2" else 1.0)


@torch.no_grad()
def greedy_cycle(distances: Tensor) -> Tensor:
    """Partner of each image, int64 [N], by `distances` [N,N]: one cycle through all images, from far to far.

    It begins with the largest distance of all, the first in row order, and goes on to the image that is farthest from
    the last one and not yet in the cycle. Of one image, itself. As many steps as there are images, each a choice on the
    device.
    """
    count = len(distances)
    if count == 1:
        return distances.new_zeros(1, dtype=torch.int64)
    reach = distances.clone().fill_diagonal_(-math.inf)
    first = reach.argmax()
    visited = [first.div(count, rounding_mode="floor").view(1), (first % count).view(1)]
    for _ in range(count - 2):
        reach.index_fill_(1, visited[-2], -math.inf)
        visited.append(reach.index_select(0, visited[-1]).argmax(1))
    order = torch.cat(visited)
    return torch.empty_like(order).index_copy_(0, order, order.roll(-1))
