"""Maps and further augmentations where there is no data set: what checks and measurements hand over in their place."""

from __future__ import annotations

from collections.abc import Collection
from typing import TypedDict

import torch
from torch import Tensor

__all__ = ["StandIns", "stand_ins"]


class StandIns(TypedDict):
    """What a step takes by these names, and a Batch has."""

    maps: dict[str, Tensor]
    augmented: tuple[Tensor, ...]


def stand_ins(images: Tensor, augmentations: int, maps: Collection[str]) -> StandIns:
    """Maps float32 [N,1,H,W] in (0,1) by name, and as many further augmentations like the `images` [N,C,H,W].

    They are made of the images row by row: those of some rows are some of their rows. No two are alike.
    """
    return {
        "maps": {name: _shares(images).roll(number, 3) for number, name in enumerate(maps)},
        "augmented": tuple(_again(images, number) for number in range(augmentations)),
    }


def _shares(images: Tensor) -> Tensor:
    return images.float().mean(1, keepdim=True).sigmoid()


def _again(images: Tensor, number: int) -> Tensor:
    """Mirrored and moved, in the images' own memory format."""
    return torch.empty_like(images).copy_(images.flip(3).roll(number, 3))
