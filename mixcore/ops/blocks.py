"""Images as n x n grids of blocks: shares of saliency, and images put together from blocks of several others.

A grid of n blocks a side has blocks of H/n x W/n pixels; block number i lies in row i // n and column i % n.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["block_shares", "cells_to_pixels", "combine_blocks"]


def block_shares(saliency: Tensor, blocks: int) -> Tensor:
    """Share of the saliency that falls in each block: [N,h,w] >= 0 -> [N,blocks,blocks] float32, summing to 1.

    A map coarser than the grid is repeated. Where the sum is 0 or not finite all blocks have the same share.
    """
    saliency = saliency.float()
    if saliency.shape[1] % blocks or saliency.shape[2] % blocks:
        pooled = F.adaptive_avg_pool2d(saliency[:, None], blocks)[:, 0]
    else:  # the same but for a factor, in long sums: three times as fast
        pooled = saliency.unflatten(1, (blocks, -1)).sum(2).unflatten(2, (blocks, -1)).sum(3)
    total = pooled.sum((1, 2), keepdim=True)
    usable = (total > 0) & total.isfinite()
    return torch.where(usable, pooled / total, 1 / blocks**2)


def cells_to_pixels(cells: Tensor, height: int, width: int) -> Tensor:
    """[..,h,w] -> [..,height,width]: pixel (i,j) takes cell (floor(i·h/height), floor(j·w/width)), of any dtype.

    In whole numbers: nearest interpolation is off by one cell at some sizes. Where h does not divide `height`, or w
    `width`, some cells are a pixel larger than others.
    """
    h, w = cells.shape[-2:]
    if w != width:
        cells = cells.index_select(-1, torch.arange(width, device=cells.device) * w // width)
    if h != height:
        cells = cells.index_select(-2, torch.arange(height, device=cells.device) * h // height)
    return cells


def combine_blocks(images: Tensor, rows: Tensor, blocks: Tensor, weights: Tensor) -> Tensor:
    """Weighted sums of blocks: block j of image i is the sum over s of weights[i,s,j] · block blocks[i,s,j] of
    images[rows[i,s]], or of images[rows[i,s,j]] where rows are given for each block.

    `images` [N,C,H,W], `rows` int64 [M,S] or [M,S,n·n], `blocks` int64 and `weights` float [M,S,n·n], n a divisor of H
    and W. A new tensor [M,C,H,W] in the dtype and memory format of `images`; where one weight is 1 and the others are
    0, the bits of that image.
    """
    _, channels, height, width = images.shape
    count, sources, places = blocks.shape
    side, device = math.isqrt(places), images.device
    last = images.is_contiguous(memory_format=torch.channels_last) and not images.is_contiguous()
    # in memory an image is lines of pixels that lie side by side in one block; a bag sums S of them in one pass
    pixels, planes = (images.permute(0, 2, 3, 1), 1) if last else (images.contiguous(), channels)
    lines = pixels.reshape(-1, width // side * (channels if last else 1))

    top = blocks.div(side, rounding_mode="floor") * (height // side)
    rows = rows if rows.ndim == 3 else rows[:, :, None]
    first = (rows * (planes * height) + top) * side + blocks % side
    down = torch.arange(planes, device=device)[:, None] * height + torch.arange(height // side, device=device)
    shape = (count, planes, side, height // side, side, sources)
    # a source of weight 0 is read from where the heaviest is: nothing is fetched for it, and no NaN comes from it
    first = torch.where(weights == 0, first.gather(1, weights.argmax(1, keepdim=True).expand_as(first)), first)
    first = first.view(count, sources, side, side).movedim(1, 3)[:, None, :, None]
    index = first + (down * side).view(1, planes, 1, height // side, 1, 1)
    weights = weights.to(images.dtype).view(count, sources, side, side).movedim(1, 3)[:, None, :, None].expand(shape)
    bags = F.embedding_bag(
        index.reshape(-1, sources), lines, per_sample_weights=weights.reshape(-1, sources), mode="sum"
    )
    if last:
        return bags.view(count, height, width, channels).permute(0, 3, 1, 2)
    return bags.view(count, channels, height, width)
