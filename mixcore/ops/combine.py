"""Two images into one: by a ratio, or by pasting boxes. dtype, device and memory format of the images are kept.

The images carry no gradient. Everything is selection or interpolation of the originals, so that a weight of exactly 0
or 1 returns the partner's or the image's own bits.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from mixcore.ops.bits import keep_where_
from mixcore.ops.boxes import Box, box_lam, box_mask, boxes_lines, crossings, crossings_mask
from mixcore.types import Mix

__all__ = [
    "blend",
    "blended",
    "paste_box",
    "paste_boxes",
    "pasted",
    "select_boxes",
    "select_pixels",
    "slice_boxes",
    "slice_patches",
    "slices_win",
    "take_rows",
    "unmixed",
]

SLICES_FROM = 3 * 64 * 64
"""Elements per image from which slices win on one CPU thread: at 3x32x32 select takes 0.4 ms for 100 images and slices
1.2, at 3x64x64 both take about 0.9 ms for 64, at 3x224x224 select takes 7.9 ms for 32 and slices 2.0."""


def take_rows(images: Tensor, rows: Tensor) -> Tensor:
    """images[rows] as a new tensor in the memory format of `images` [N,C,H,W]; `rows` int64 [N]."""
    if images.is_contiguous():
        return images.index_select(0, rows)
    # alone it falls to a slow path and to the contiguous format for channels_last; into `out` it does neither
    return torch.index_select(images, 0, rows, out=torch.empty_like(images))


def blend(images: Tensor, partner: Tensor, lam: float | Tensor, overwrite: bool = False) -> Tensor:
    """lam · x + (1 - lam) · x[partner] by one gather and one lerp.

    `lam` is one Python float, one value per image [N], or masks [N,1,H,W]. `overwrite` writes into `images` and returns
    them.
    """
    others = take_rows(images, partner)
    mixed = images if overwrite else others
    if isinstance(lam, Tensor):
        weight = lam if lam.ndim == images.ndim else lam.view(-1, 1, 1, 1)
        return torch.lerp(others, images, weight.to(images.dtype), out=mixed)
    return torch.lerp(others, images, lam, out=mixed)


def paste_box(images: Tensor, partner: Tensor, box: Box, overwrite: bool = False) -> Tensor:
    """x with x[partner] inside one box that all images share; `overwrite` writes into `images` and returns them."""
    if box.empty:
        return images
    rows, columns = slice(box.top, box.bottom), slice(box.left, box.right)
    source = images[:, :, rows, columns]
    if overwrite:
        # the box is gathered before it is written: later rows need the pixels that earlier rows overwrite
        source.copy_(source.index_select(0, partner))
        return images
    mixed = images.clone()
    torch.index_select(source, 0, partner, out=mixed[:, :, rows, columns])
    return mixed


def select_pixels(images: Tensor, partner: Tensor, theirs: Tensor) -> Tensor:
    """x[partner] where `theirs`, bool [N,1,H,W] or [1,1,H,W] on the device of the images, x elsewhere: bit for bit."""
    mixed = take_rows(images, partner)
    if images.device.type == "cpu":
        keep_where_(theirs, mixed, images)
        return mixed
    return torch.where(theirs, mixed, images, out=mixed)


def select_boxes(images: Tensor, partner: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
    """x with x[partner] inside each image's box [N,4], and the masks [N,1,H,W] float32 (0 inside).

    All on the device of the images, in one select: for boxes that come from the batch, accelerators and small images.
    Boxes [1,4] are one box for all, and there is one mask [1,1,H,W].
    """
    lines = boxes_lines(boxes, *images.shape[-2:])
    return select_pixels(images, partner, crossings(*lines)), crossings_mask(*lines)


def slice_boxes(
    images: Tensor, partner: Sequence[int], boxes: Sequence[Sequence[int]], overwrite: bool = False
) -> tuple[Tensor, Tensor]:
    """The bits of :func:`select_boxes` by one slice copy per box, which touches the boxes only.

    `partner` and `boxes` hold N rows as Python ints. `overwrite` writes into `images` and returns them.
    """
    patches = [
        images[row, :, top:bottom, left:right] for row, (top, bottom, left, right) in zip(partner, boxes, strict=True)
    ]
    if overwrite:
        # gathered before any is written: later rows need the pixels that earlier rows overwrite
        patches = [patch.clone() for patch in patches]
    return slice_patches(images, patches, boxes, overwrite)


def slice_patches(
    images: Tensor, patches: Sequence[Tensor], boxes: Sequence[Sequence[int]], overwrite: bool = False
) -> tuple[Tensor, Tensor]:
    """x with a patch [C,h,w] of that size in each image's box, and the masks [N,1,H,W] float32 (0 inside).

    `boxes` hold N rows as Python ints; one slice copy per box, which touches the boxes only: see :func:`slices_win`.
    `overwrite` writes into `images`, of which no patch may then be a view, and returns them.
    """
    count, _, height, width = images.shape
    mixed = images if overwrite else images.clone()
    masks = images.new_ones(count, 1, height, width, dtype=torch.float32)
    for row, (patch, (top, bottom, left, right)) in enumerate(zip(patches, boxes, strict=True)):
        mixed[row, :, top:bottom, left:right] = patch
        masks[row, :, top:bottom, left:right] = 0
    return mixed, masks


def slices_win(images: Tensor) -> bool:
    """Whether boxes drawn on the host are pasted into these images [N,C,H,W] one by one rather than all at once.

    On a CPU, where reading them costs nothing, and for large images, most of which such a copy leaves alone.
    """
    return images.device.type == "cpu" and images[0].numel() >= SLICES_FROM


def paste_boxes(images: Tensor, partner: Tensor, boxes: Tensor, overwrite: bool = False) -> tuple[Tensor, Tensor]:
    """x with x[partner] inside each image's box [N,4], and the masks [N,1,H,W] float32 (0 inside).

    For boxes drawn on the host and sent to the device of the images: where :func:`slices_win` by :func:`slice_boxes`,
    else by :func:`select_boxes`. The bits are the same.
    """
    if slices_win(images):
        return slice_boxes(images, partner.tolist(), boxes.tolist(), overwrite)
    return select_boxes(images, partner, boxes)


def blended(images: Tensor, partner: Tensor, lam: float | Tensor, overwrite: bool = False, **rest: Any) -> Mix:
    """The mix of :func:`blend`, labels weighted alike; the mask is lam itself, at 1x1. `rest` goes to the Mix."""
    if isinstance(lam, Tensor):
        mask = lam.float().view(-1, 1, 1, 1)
    else:
        mask = torch.full((images.shape[0], 1, 1, 1), lam, dtype=torch.float32, device=images.device)
    return Mix.pair(blend(images, partner, lam, overwrite=overwrite), partner, lam, mask, **rest)


def pasted(
    images: Tensor, partner: Tensor, box: Box, lam: float | None = None, overwrite: bool = False, **rest: Any
) -> Mix:
    """The mix of :func:`paste_box`, labels weighted by the share of the image outside the box, or by `lam` where given.

    The mask is 0 inside the box; `rest` goes to the Mix.
    """
    count, _, height, width = images.shape
    weight = box_lam(box, height, width) if lam is None else lam
    mask = box_mask(box, height, width, images.device).expand(count, 1, height, width)
    return Mix.pair(paste_box(images, partner, box, overwrite=overwrite), partner, weight, mask, **rest)


def unmixed(images: Tensor) -> Mix:
    """The batch as it is, as a pair mix: lam 1, each image its own partner, a mask of ones (1x1, as constants are)."""
    count = images.shape[0]
    lam = torch.ones(count, dtype=torch.float32, device=images.device)
    own = torch.arange(count, device=images.device)
    return Mix.pair(images, own, lam, lam[:, None, None, None])
