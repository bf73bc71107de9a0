"""Blend or paste, given the draws: for a whole batch alike, or for each image on its own."""

from __future__ import annotations

import attrs
import torch
from torch import Tensor

from mixcore.api import Box, Mix, blend, blended, boxes_lam, paste_boxes, pasted, send

__all__ = ["Rows", "mix_batch", "mix_rows"]


def mix_batch(
    images: Tensor, partner: Tensor, lam: float, box: Box | None, *, correct_lam: bool = True, overwrite: bool = False
) -> Mix:
    """All images alike: blended with weight `lam`, or with the partner's pixels inside `box` (steps 3 and 4).

    `images` [N,C,H,W], `partner` int64 [N] on their device. With a box, labels are weighted by the area outside it, or
    by `lam` where `correct_lam` is false. `overwrite` writes into `images`; else they are left alone.
    """
    if box is None:
        return blended(images, partner, lam, overwrite=overwrite)
    return pasted(images, partner, box, None if correct_lam else lam, overwrite=overwrite)


@attrs.frozen(eq=False, kw_only=True)
class Rows:
    """What was drawn for each image; all on the host, where it decides which images go which way."""

    partner: Tensor
    """int64 [N] row that an image is mixed with."""
    lam: Tensor
    """float64 [N] in [0,1] weight of the image's own pixels as drawn; exactly 1 leaves the image alone."""
    pastes: Tensor
    """bool [N], whether the image gets a box; the others are blended."""
    boxes: Tensor
    """int64 [N,4] as (top, bottom, left, right), ends exclusive; read where `pastes`."""

    def settled(self) -> Rows:
        """The same mixes in one form: an image that is left alone is its own partner; no box but for those pasted."""
        alone = self.lam == 1
        own = torch.arange(len(alone), device="cpu")
        pastes = self.pastes & ~alone
        return Rows(
            partner=torch.where(alone, own, self.partner),
            lam=self.lam,
            pastes=pastes,
            boxes=self.boxes * pastes[:, None],
        )


def mix_rows(images: Tensor, rows: Rows, *, correct_lam: bool = True, overwrite: bool = False) -> Mix:
    """Each image by its own draws; as :func:`mix_batch` else.

    Images to blend are gathered by rows known on the host, so that nothing waits for a device. Masks are [N,1,H,W], or
    [N,1,1,1] where no image gets a box.
    """
    device, (height, width) = images.device, images.shape[-2:]
    rows = rows.settled()
    blends = (~rows.pastes & (rows.lam < 1)).nonzero()[:, 0]
    partner, lam = send(rows.partner, device), send(rows.lam.float(), device)
    if not rows.pastes.any():
        return Mix.pair(blend(images, partner, lam, overwrite=overwrite), partner, lam, lam[:, None, None, None])
    boxes, chosen = send(rows.boxes, device), send(blends, device)
    other = images.index_select(0, partner[chosen])  # before any pixel is written
    mixed, masks = paste_boxes(images, partner, boxes, overwrite=overwrite)
    _blend_rows(mixed, other, lam, chosen)
    masks.index_copy_(0, chosen, lam[chosen][:, None, None, None].expand(-1, 1, height, width))
    if correct_lam:
        lam = torch.where(send(rows.pastes, device), boxes_lam(boxes, height, width), lam)
    return Mix.pair(mixed, partner, lam, masks)


def _blend_rows(mixed: Tensor, other: Tensor, lam: Tensor, chosen: Tensor) -> None:
    """Rows `chosen` [n] of `mixed`, so far the images' own, blended with `other` [n,C,H,W] in place.

    On the CPU one lerp per image touches only what it writes: 3 ms in place of 13 for 16 of 32 images of 224 pixels, as
    fast as gathering for 50 of 100 of 32.
    """
    if mixed.device.type == "cpu":
        images, weights = mixed.unbind(0), lam.tolist()
        for row, image in zip(chosen.tolist(), other.unbind(0), strict=True):
            torch.lerp(image, images[row], weights[row], out=images[row])
        return
    own = mixed.index_select(0, chosen)
    mixed.index_copy_(0, chosen, torch.lerp(other, own, lam[chosen].to(mixed.dtype)[:, None, None, None]))
