"""Saliency on a grid of blocks, and which blocks are salient.

N images, n blocks a side.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["block_saliency", "dividing_blocks", "salient_blocks", "usual_blocks"]

SLACK = 1e-6
"""Relative rounding error that a block at the threshold is granted: equal blocks are kept all."""


def usual_blocks(height: int, width: int) -> int:
    """Blocks a side for images of this size: 4 up to 32 pixels of the smaller side, 8 up to 64, 7 from there on."""
    smaller = min(height, width)
    return 4 if smaller <= 32 else 8 if smaller <= 64 else 7


def dividing_blocks(height: int, width: int) -> int:
    """The divisor of both sides that is nearest to `usual_blocks`, the larger of two; 1 where they have no other."""
    usual, common = usual_blocks(height, width), math.gcd(height, width)
    divisors = (number for number in range(2, common + 1) if common % number == 0)
    return min(divisors, key=lambda number: (abs(number - usual), -number), default=1)


@torch.no_grad()
def block_saliency(saliency: Tensor, blocks: int) -> Tensor:
    """[N,h,w] >= 0 -> [N,blocks,blocks] float32 in [0,1], the largest of each image 1 (step 2 of the method).

    A finer map is averaged over each block, a coarser one enlarged bilinearly. Ones where the largest value is 0 or
    not finite.
    """
    pooled, size = saliency.float()[:, None], (blocks, blocks)
    if saliency.shape[-2:] != size:
        height, width = saliency.shape[-2:]
        pooled = F.adaptive_avg_pool2d(pooled, (min(height, blocks), min(width, blocks)))
    if pooled.shape[-2:] != size:
        pooled = F.interpolate(pooled, size=size, mode="bilinear", align_corners=False)
    largest = pooled.amax((2, 3), keepdim=True)
    usable = (largest > 0) & largest.isfinite()
    return torch.where(usable, pooled / largest, 1.0)[:, 0]


@torch.no_grad()
def salient_blocks(saliency: Tensor, temperature: float, sigma: float = 1.0) -> Tensor:
    """Which blocks of each image may be grafted, bool [N,n,n], from `saliency` [N,n,n] in [0,1] (steps 3 and 4).

    Those whose share in the softmax of saliency / `temperature` is at least `sigma` times the mean share; the most
    salient one always.
    """
    shares = (saliency.flatten(1) / temperature).softmax(1)
    threshold = shares.amax(1, keepdim=True).clamp(max=sigma / shares.shape[1])
    return (shares >= threshold * (1 - SLACK)).view_as(saliency)
