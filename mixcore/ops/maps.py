"""Maps of images, [N,h,w], one value per position: brought to another size, and smoothed."""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor

__all__ = ["gaussian_blur", "resize_maps"]


def resize_maps(maps: Tensor, height: int, width: int) -> Tensor:
    """Maps [N,h,w] at another size, [N,height,width] float32, bilinearly between centres of positions, not antialiased.

    Maps of that size and dtype are returned as they are.
    """
    maps = maps.float()
    if maps.shape[-2:] == (height, width):
        return maps
    return F.interpolate(maps[:, None], size=(height, width), mode="bilinear", align_corners=False)[:, 0]


def gaussian_blur(maps: Tensor, size: int, sigma: float) -> Tensor:
    """Maps [N,h,w] smoothed by a separable Gaussian of `size` taps (odd), `sigma` positions wide; same shape and dtype.

    The taps sum to 1. Edges are reflected without repeating the edge, or repeated where a side has no more than
    size // 2 positions.
    """
    half = size // 2
    taps = [math.exp(-(offset**2) / (2 * sigma**2)) for offset in range(-half, half + 1)]
    for axis in (1, 2):
        length = maps.shape[axis]
        pads = (0, 0, half, half) if axis == 1 else (half, half, 0, 0)
        padded = F.pad(maps, pads, mode="reflect" if length > half else "replicate")
        maps = sum((padded.narrow(axis, i, length) * (tap / sum(taps)) for i, tap in enumerate(taps)), 0 * maps)
    return maps
