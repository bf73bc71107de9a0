"""The partner shrunk into a box of the image: into one box for all, boxes of one size, or any box for each.

With m the mask and q the mix itself, whose boxes hold the shrunk partners, x' = m·x + (1-m)·q. It is not
m·x + (1-m)·x[p]: what is pasted is no part of x[p].
"""

from __future__ import annotations

from typing import Literal, TypeAlias

import torch
from torch import Tensor
from torch.nn import functional as F

from mixcore.api import (
    Box,
    Mix,
    box_lam,
    box_mask,
    boxes_inside,
    boxes_lam,
    boxes_mask,
    send,
    slice_patches,
    slices_win,
    take_rows,
)

__all__ = [
    "Interpolation",
    "resizemix_boxes",
    "resizemix_one_box",
    "resizemix_one_size",
    "shrink",
]

Interpolation: TypeAlias = Literal["nearest", "bilinear"]
"""How images are made smaller: from the pixel at floor(i·H/h), or bilinearly between centres of pixels."""


def shrink(images: Tensor, height: int, width: int, interpolation: Interpolation = "nearest") -> Tensor:
    """Whole images [N,C,H,W] at a smaller size, [N,C,height,width] (step 3 of the method)."""
    if interpolation == "bilinear":
        return F.interpolate(images, (height, width), mode="bilinear", align_corners=False)
    count, channels, full_height, full_width = images.shape
    # in integers: torch's own nearest takes a float step, and some floors differ
    rows = torch.arange(height, device=images.device) * full_height // height
    columns = torch.arange(width, device=images.device) * full_width // width
    places = (rows[:, None] * full_width + columns).flatten().expand(count, channels, -1)
    return images.flatten(2).gather(2, places).unflatten(2, (height, width))


def resizemix_one_box(
    images: Tensor, partner: Tensor, box: Box, interpolation: Interpolation = "nearest", overwrite: bool = False
) -> Mix:
    """The whole partner shrunk into one box that all images share (steps 3 to 6 of the method).

    `images` [N,C,H,W], `partner` int64 [N] on their device. The label weight is the share of the image outside the box.
    `overwrite` writes into `images`; else they are left alone.
    """
    count, _, height, width = images.shape
    mixed = images
    if not box.empty:
        rows, columns = slice(box.top, box.bottom), slice(box.left, box.right)
        patches = shrink(images, box.bottom - box.top, box.right - box.left, interpolation)
        mixed = images if overwrite else images.clone()
        torch.index_select(patches, 0, partner, out=mixed[:, :, rows, columns])
    mask = box_mask(box, height, width, images.device).expand(count, 1, height, width)
    return Mix.pair(mixed, partner, box_lam(box, height, width), mask)


def resizemix_one_size(
    images: Tensor,
    partner: Tensor,
    corners: Tensor,
    size: tuple[int, int],
    interpolation: Interpolation = "nearest",
    overwrite: bool = False,
) -> Mix:
    """:func:`resizemix_one_box` with a place for each image: `corners` int64 [N,2] (top, left) of boxes of one `size`.

    `size` is (height, width), at least 1; the boxes lie inside the image.
    """
    height, width = images.shape[-2:]
    patches = shrink(images, *size, interpolation)
    top, left = corners.unbind(1)
    boxes = torch.stack((top, top + size[0], left, left + size[1]), 1)
    if slices_win(images):
        mixed, masks = slice_patches(images, [patches[row] for row in partner.tolist()], boxes.tolist(), overwrite)
    else:
        mixed = _scattered(images, take_rows(patches, partner), top, left, overwrite)
        masks = boxes_mask(boxes, height, width)
    return Mix.pair(mixed, partner, 1 - size[0] * size[1] / (height * width), masks)


def _scattered(images: Tensor, patches: Tensor, top: Tensor, left: Tensor, overwrite: bool) -> Tensor:
    """A patch [N,C,h,w] in each image, from its row `top` and its column `left` on, int64 [N]: all at once."""
    count, channels, height, width = images.shape
    size = patches.shape[-2:]
    rows = top[:, None] + torch.arange(size[0], device=images.device)
    columns = left[:, None] + torch.arange(size[1], device=images.device)
    places = (rows[:, :, None] * width + columns[:, None, :]).view(count, 1, -1).expand(-1, channels, -1)
    # a view of the images, or where their memory has no such view a copy, which is then what is returned
    pixels = (images if overwrite else images.clone()).flatten(2)
    return pixels.scatter_(2, places, patches.flatten(2)).unflatten(2, (height, width))


def resizemix_boxes(
    images: Tensor, partner: Tensor, boxes: Tensor, interpolation: Interpolation = "nearest", overwrite: bool = False
) -> Mix:
    """:func:`resizemix_one_box` with a box for each image: `boxes` int64 [N,4] as (top, bottom, left, right).

    The boxes are on the CPU, where they were drawn, whatever the device of the images: how many rows of the batch they
    cover is read there.
    """
    height, width = images.shape[-2:]
    there = send(boxes, images.device)
    if interpolation == "nearest" and slices_win(images):
        sizes = zip(partner.tolist(), (boxes[:, 1::2] - boxes[:, ::2]).tolist(), strict=True)
        patches = [shrink(images[row : row + 1], *size)[0] for row, size in sizes]
        mixed, masks = slice_patches(images, patches, boxes.tolist(), overwrite)
        return Mix.pair(mixed, partner, boxes_lam(there, height, width), masks)
    if interpolation == "bilinear":
        mixed = _paste_bilinear(images, partner, there, overwrite)
    else:
        rows = send(_rows_of(boxes, height), images.device)
        mixed = _paste_nearest(images, partner, rows, _columns_of(there, width), overwrite)
    return Mix.pair(mixed, partner, boxes_lam(there, height, width), boxes_mask(there, height, width))


def _rows_of(boxes: Tensor, height: int) -> Tensor:
    """The rows that boxes [N,4] cover, one after the other: image, row of it, row of its partner; int64 [3,R]."""
    top, bottom = boxes[:, 0], boxes[:, 1]
    lengths = bottom - top
    samples = torch.arange(len(boxes), device=boxes.device).repeat_interleave(lengths)
    starts = lengths.cumsum(0) - lengths
    # one look at all three of each image: indexing by [samples] costs twice as much as this
    start, top, length = torch.stack((starts, top, lengths)).index_select(1, samples)
    inside = torch.arange(len(samples), device=boxes.device) - start
    return torch.stack((samples, top + inside, inside * height // length))


def _columns_of(boxes: Tensor, width: int) -> Tensor:
    """Where each column of a row comes from, an image's row and its partner's put side by side: int64 [N,W]."""
    left, right = boxes[:, 2:3], boxes[:, 3:4]
    columns = torch.arange(width, device=boxes.device)
    # clamped because a box without columns has no length; where its columns were is not used
    theirs = (columns - left) * width // (right - left).clamp(min=1) + width
    return torch.where((columns >= left) & (columns < right), theirs, columns)


def _paste_nearest(images: Tensor, partner: Tensor, rows: Tensor, columns: Tensor, overwrite: bool) -> Tensor:
    """The rows of boxes, each beside the row of the partner that it shows; every column then picks one of the two.

    So rows are copied whole, and no others than those of the boxes are touched. `rows` [3,R], `columns` [N,W].
    """
    _, channels, height, width = images.shape
    samples, own, theirs = rows
    planes = torch.arange(channels, device=images.device)
    own = (samples[:, None] * channels + planes) * height + own[:, None]
    theirs = (partner.index_select(0, samples)[:, None] * channels + planes) * height + theirs[:, None]
    plain = images.is_contiguous()
    mixed = images if plain and overwrite else images.clone(memory_format=torch.contiguous_format)
    lines = mixed.view(-1, width)
    both = lines.index_select(0, torch.stack((own, theirs), 2).flatten()).view(*own.shape, 2 * width)
    fresh = both.gather(2, columns.index_select(0, samples)[:, None].expand(*own.shape, width))
    lines.index_copy_(0, own.flatten(), fresh.view(-1, width))
    return mixed if plain else torch.empty_like(images).copy_(mixed)


def _paste_bilinear(images: Tensor, partner: Tensor, boxes: Tensor, overwrite: bool) -> Tensor:
    """By the affine map from each box to the whole partner, in float32."""
    count, _, height, width = images.shape
    top, bottom, left, right = boxes.unbind(1)
    rows, columns = _positions(top, bottom, height), _positions(left, right, width)
    shape = (count, height, width)
    grid = torch.stack((columns[:, None, :].expand(shape), rows[:, :, None].expand(shape)), 3)
    theirs = F.grid_sample(take_rows(images, partner).float(), grid, padding_mode="border", align_corners=False)
    mixed = images if overwrite else torch.empty_like(images)
    return torch.where(boxes_inside(boxes, height, width), theirs.to(images.dtype), images, out=mixed)


def _positions(start: Tensor, end: Tensor, size: int) -> Tensor:
    """Where in the partner each row (or column) of the image lies, from -1 at one edge to 1 at the other: [N,size]."""
    middles = torch.arange(size, dtype=torch.float32, device=start.device) + 0.5 - start[:, None]
    return middles.mul_(2).div_((end - start).clamp_(min=1)[:, None]).sub_(1)
