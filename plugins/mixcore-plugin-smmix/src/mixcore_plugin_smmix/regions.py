"""Squares of tokens: how large they may be, which are looked at least and most, pasting them, what they put out.

N images, M mixed images, h w the grid of T tokens, D features.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from mixcore.api import ConfigError, MixcoreError

__all__ = ["paste_moved", "places", "region_means", "region_scores", "side_range"]


def side_range(tokens: int, min_ratio: float, max_ratio: float) -> tuple[int, int]:
    """Least and greatest side of a square, of `tokens` along the grid's shorter side: 3 and 10 of 14 (step 2).

    At least one token, and not all. ConfigError where the ratios leave none between.
    """
    least, greatest = max(int(tokens * min_ratio), 1), int(tokens * max_ratio)
    if greatest < least:
        raise ConfigError(
            f"min_ratio = {min_ratio} and max_ratio = {max_ratio} leave no square in a grid of {tokens} tokens a side; "
            "raise max_ratio, or take a network of smaller patches or a larger image"
        )
    return least, greatest


def region_scores(attention: Tensor, side: int) -> Tensor:
    """Attention [N,h,w] in each square of `side` tokens by its top left one: [N,h-side+1,w-side+1] (step 3)."""
    return F.avg_pool2d(attention[:, None], side, stride=1)[:, 0] * side**2


def places(attention: Tensor, partner: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """Top left tokens (row, column), int64 [N,2]: of each image's least attended square, and of its partner's most.

    The first of equals (step 4).
    """
    scores = region_scores(attention, side)
    columns, flat = scores.shape[2], scores.flatten(1)
    least, most = flat.argmin(1), flat.argmax(1)[partner]
    to, source = (torch.stack((k.div(columns, rounding_mode="floor"), k % columns), 1) for k in (least, most))
    return to, source


def paste_moved(
    images: Tensor,
    partner: Tensor,
    to: Tensor,
    source: Tensor,
    size: tuple[int, int],
    overwrite: bool = False,
) -> Tensor:
    """x with the rectangle of `size` pixels at `source` of x[partner] pasted at `to`: bit for bit, from clean images.

    `to` and `source` int64 [N,2] are top left pixels (row, column) on the device of `images` [N,C,H,W], whose memory
    format is kept. Only the rectangles are touched. `overwrite` writes into `images` and returns them.
    """
    own = torch.arange(images.shape[0], device=images.device)
    patches = images.permute(0, 2, 3, 1)[_pixels(partner, source, size)]
    mixed = images if overwrite else images.clone()
    mixed.permute(0, 2, 3, 1)[_pixels(own, to, size)] = patches
    return mixed


def _pixels(rows: Tensor, corner: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
    """Indices of the pixels [N,h,w] of a rectangle in each of `rows` [N]: image, row, column."""
    down, right = (corner[:, axis, None] + torch.arange(size[axis], device=corner.device) for axis in (0, 1))
    return rows[:, None, None], down[:, :, None], right[:, None, :]


def region_means(tokens: Tensor, own: Tensor) -> Tensor:
    """Mean of the `tokens` [M,T,D] where `own` [M,T] is 1, and of the others: [M,2,D] float32 (step 7).

    Both are there in every image. MixcoreError for another number of tokens than the squares were placed on.
    """
    if tokens.shape[1] != own.shape[1]:
        raise MixcoreError(
            f"smmix placed squares on {own.shape[1]} positions, and the network puts out {tokens.shape[1]}; it needs a "
            'network whose last attention, or with attn = "energy" whose last stage, stands where its output does'
        )
    masks = torch.stack((own, 1 - own), 1)
    return torch.einsum("mst,mtd->msd", masks / masks.sum(2, keepdim=True), tokens.float())
