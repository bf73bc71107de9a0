"""Images as n x n grids of blocks: shares of saliency, blocks from anywhere in the batch, weights per block.

A grid of n blocks a side has blocks of H/n x W/n pixels; block number i lies in row i // n and column i % n.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["blend_blocks", "block_shares", "gather_blocks"]


def block_shares(saliency: Tensor, blocks: int) -> Tensor:
    """Share of the saliency that falls in each block: [N,h,w] >= 0 -> [N,blocks,blocks] float32, summing to 1.

    A map coarser than the grid is repeated. Where the sum is 0 or not finite all blocks have the same share.
    """
    pooled = F.adaptive_avg_pool2d(saliency.float()[:, None], blocks)[:, 0]
    total = pooled.sum((1, 2), keepdim=True)
    usable = (total > 0) & total.isfinite()
    return torch.where(usable, pooled / total, 1 / blocks**2)


def gather_blocks(images: Tensor, rows: Tensor | None, source: Tensor) -> Tensor:
    """Images whose block j is block `source[i, j]` of `images[rows[i]]`, in the memory format of `images` [N,C,H,W].

    `rows` int64 [M], None for the images in their order; `source` int64 [M, n·n] of block numbers; n divides H and W.
    Both formats are read as lines of pixels that lie side by side in one block, and each line is copied once.
    """
    count, channels, height, width = images.shape
    blocks = round(source.shape[1] ** 0.5)
    last = _channels_last(images)
    pixels = images.permute(0, 2, 3, 1) if last else images.contiguous()
    planes = 1 if last else channels
    lines = pixels.reshape(count * planes * height * blocks, -1)

    device = source.device
    if rows is None:
        rows = torch.arange(count, device=device)
    block_rows = source.div(blocks, rounding_mode="floor")
    first = (rows[:, None] * (planes * height) + block_rows * (height // blocks)) * blocks + source % blocks
    offsets = torch.arange(planes, device=device)[:, None, None, None] * height
    offsets = (offsets + torch.arange(height // blocks, device=device)[:, None]) * blocks
    index = first.view(-1, 1, blocks, 1, blocks) + offsets
    gathered = lines.index_select(0, index.view(-1))
    if last:
        return gathered.view(rows.shape[0], height, width, channels).permute(0, 3, 1, 2)
    return gathered.view(rows.shape[0], channels, height, width)


def blend_blocks(own: Tensor, other: Tensor, weights: Tensor) -> Tensor:
    """weights · own + (1 - weights) · other, into `other`: images [N,C,H,W], weights [N,1,n,n] of the blocks of `own`.

    Where a weight is exactly 1 or 0 the bits of `own` or `other` stay. n divides H and W.
    """
    count, _, height, width = own.shape
    blocks = weights.shape[-1]
    grid = (count, blocks, height // blocks, blocks, width // blocks)
    weights = weights.to(own.dtype)
    if _channels_last(own) and _channels_last(other):
        # broadcast over lines of one block: over channels alone, the innermost axis here, is four times slower
        own_lines, lines = (x.permute(0, 2, 3, 1).view(*grid[:4], -1) for x in (own, other))
        lines.lerp_(own_lines, weights.view(count, blocks, 1, blocks, 1))
        return other
    pixels = weights.view(count, blocks, 1, blocks, 1).expand(grid).reshape(count, 1, height, width)
    return other.lerp_(own, pixels)


def _channels_last(images: Tensor) -> bool:
    return images.is_contiguous(memory_format=torch.channels_last) and not images.is_contiguous()
