"""From what is shown in each block to mixed images, sources and masks. Letters as in `labels`."""

from __future__ import annotations

import torch
from torch import Tensor

from mixcore.api import combine_blocks

__all__ = ["assemble", "groups_of", "in_the_batch"]


def groups_of(count: int, size: int) -> list[tuple[int, int, int]]:
    """(first row, groups, inputs of each): all whole groups of `size` consecutive rows, then the smaller last one."""
    whole, rest = divmod(count, size)
    parts = [(0, whole, size), (whole * size, 1, rest)]
    return [(first, groups, inputs) for first, groups, inputs in parts if groups * inputs]


def in_the_batch(shown: Tensor, first: int, slots: int) -> tuple[Tensor, Tensor, Tensor]:
    """What outputs show, sources of each, and their pixel weights: int64 [M,2,n,n] and [M,slots] rows of the batch,
    and [M,slots,n,n] float32 in {0,0.5,1}, M = G·I.

    `shown` int64 [G,I,2,n,n] tells inputs of a group; `first` is the row of the first input of the first group. An
    output's first source is the image in its own place, then come those that follow it in its group, round its end;
    slots that are left over tell the image itself, with weight 0.
    """
    groups, inputs = shown.shape[:2]
    order = torch.arange(inputs, device=shown.device)
    turned = (order[:, None] + order) % inputs  # [O,S]
    masks = (shown[:, :, None] == turned[:, :, None, None, None]).float().mean(3).flatten(0, 1)
    starts = torch.arange(groups, device=shown.device) * inputs + first
    sources = (turned + starts[:, None, None]).flatten(0, 1)
    rows = (shown + starts[:, None, None, None, None]).flatten(0, 1)
    spare = slots - inputs
    if spare:
        sources = torch.cat((sources, sources[:, :1].expand(-1, spare)), 1)
        masks = torch.cat((masks, torch.zeros_like(masks[:, :1]).expand(-1, spare, -1, -1)), 1)
    return rows, sources, masks


def assemble(images: Tensor, rows: Tensor) -> Tensor:
    """Each block half of two images of the batch, or one whole: `rows` int64 [M,2,n,n]; a new tensor [M,C,H,W]."""
    pairs = rows.flatten(2)
    alone = (pairs[:, 0] == pairs[:, 1]).float()
    weights = torch.stack((1 + alone, 1 - alone), 1) / 2
    places = torch.arange(pairs.shape[2], device=images.device).expand_as(pairs)
    return combine_blocks(images, pairs, places, weights)
