"""Pictures of masks over the mixing ratio, of mixers that implement preview_mix."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision.utils import make_grid

from mixcore.pictures.grid import denormalise
from mixcore.pictures.layout import Block, Cell
from mixcore.types import Mix, Task

__all__ = ["LAMS", "preview_block", "preview_grid"]

LAMS = tuple(tenth / 10 for tenth in range(1, 10))
"""The ratios that are pictured."""


def preview_grid(images: Tensor, mixes: Sequence[Mix], task: Task, rows: int = 4) -> Tensor:
    """uint8 [3,h,w] on the CPU: per row an image, its partner, and its mask at each ratio (white: own pixels)."""
    tiles = torch.stack([*_originals(images, mixes, task, rows), *_masks(images, mixes, rows)], 1)
    return make_grid(tiles.flatten(0, 1), nrow=tiles.shape[1], padding=2, pad_value=128)


def preview_block(
    title: str, images: Tensor, mixes: Sequence[Mix], lams: Sequence[float], task: Task, rows: int
) -> Block:
    """The same as a section of a contact sheet, with the mean of each mask below it."""
    own, partner = _originals(images, mixes, task, rows)
    masks = _masks(images, mixes, rows)
    means = [mask.float().mean((1, 2, 3)) / 255 for mask in masks]
    return Block(
        title=f"{title}: masks over lam",
        notes=["white where the image's own pixels are kept; below each mask its mean"],
        columns=["image", "partner", *(f"lam {lam:.1f}" for lam in lams), "mean of the mask"],
        rows=[
            [
                Cell(picture=own[row]),
                Cell(picture=partner[row]),
                *(
                    Cell(picture=mask[row], caption=f"mean {mean[row]:.3f}")
                    for mask, mean in zip(masks, means, strict=True)
                ),
                Cell(lines=[f"{means[0][row]:.2f} to {means[-1][row]:.2f}"]),
            ]
            for row in range(len(own))
        ],
    )


def _originals(images: Tensor, mixes: Sequence[Mix], task: Task, rows: int) -> tuple[Tensor, Tensor]:
    """The first images and their partners, uint8 [rows,3,H,W] on the CPU."""
    pixels = denormalise(images, task).cpu()
    return pixels[:rows], pixels[mixes[0].partner[:rows].cpu()]


def _masks(images: Tensor, mixes: Sequence[Mix], rows: int) -> list[Tensor]:
    """Per mix the masks of the first images, uint8 [rows,3,H,W] on the CPU."""
    height, width = images.shape[-2:]
    shown = [mix.masks_on(height, width)[:rows, :1].float().cpu() for mix in mixes]
    return [mask.mul(255).round().clamp(0, 255).to(torch.uint8).expand(-1, 3, -1, -1) for mask in shown]
