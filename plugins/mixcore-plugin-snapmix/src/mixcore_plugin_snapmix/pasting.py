"""A box of the partner, resized into another box of the image: one pair of boxes for all, or one for each (step 5).

Pixels in the corners of the one box are those in the corners of the other; a side of one pixel shows the first row, or
column, of what it is made from. In float32, in the dtype and memory format of the images.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from mixcore.api import Box, boxes_inside, take_rows

__all__ = ["paste_resized", "paste_resized_each"]


def paste_resized(images: Tensor, partner: Tensor, into: Box, out_of: Box, overwrite: bool = False) -> Tensor:
    """x with the partner's box `out_of` in the box `into`, for all images the same; x itself where one is empty.

    `images` [N,C,H,W], `partner` int64 [N] on their device. `overwrite` writes into `images`; else they are left alone.
    """
    if into.empty or out_of.empty:
        return images
    crop = images[:, :, out_of.top : out_of.bottom, out_of.left : out_of.right]
    size = (into.bottom - into.top, into.right - into.left)
    patches = F.interpolate(crop.float(), size=size, mode="bilinear", align_corners=True).to(images.dtype)
    mixed = images if overwrite else images.clone()
    torch.index_select(patches, 0, partner, out=mixed[:, :, into.top : into.bottom, into.left : into.right])
    return mixed


def paste_resized_each(
    images: Tensor, partner: Tensor, into: Tensor, out_of: Tensor, overwrite: bool = False
) -> Tensor:
    """:func:`paste_resized` with boxes for each image, int64 [N,4] as (top, bottom, left, right), ends exclusive.

    All on one device. Where a box `into` is empty the image is left as it is; no box `out_of` is empty elsewhere.
    """
    count, _, height, width = images.shape
    rows = _positions(into[:, :2], out_of[:, :2], height)
    columns = _positions(into[:, 2:], out_of[:, 2:], width)
    shape = (count, height, width)
    grid = torch.stack((columns[:, None, :].expand(shape), rows[:, :, None].expand(shape)), 3)
    theirs = F.grid_sample(take_rows(images, partner).float(), grid, padding_mode="border", align_corners=True)
    mixed = images if overwrite else torch.empty_like(images)
    return torch.where(boxes_inside(into, height, width), theirs.to(images.dtype), images, out=mixed)


def _positions(into: Tensor, out_of: Tensor, size: int) -> Tensor:
    """Where in the partner each row (or column) of the image lies, from -1 for the first to 1 for the last: [N,size].

    `into` and `out_of` [N,2] are starts and ends.
    """
    first, length = out_of[:, :1], out_of[:, 1:] - out_of[:, :1]
    steps = (into[:, 1:] - into[:, :1] - 1).clamp(min=1)
    offsets = torch.arange(size, device=into.device) - into[:, :1]
    # whole numbers until the one division: every offset is divided alike, wherever the boxes lie
    return (first * steps + offsets * (length - 1)).float().div(steps).mul(2 / max(size - 1, 1)).sub(1)
