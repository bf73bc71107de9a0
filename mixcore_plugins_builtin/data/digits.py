"""Handwritten digits that ship with mixcore: real images, no download."""

from __future__ import annotations

from importlib.resources import files
from typing import Literal

import attrs
import numpy as np
import torch
import torch.nn.functional as F
from attrs.validators import in_, min_len, optional
from torch import Tensor

from mixcore.api import Data, PaddingMode, all_positive, hookimpl
from mixcore_plugins_builtin.data.options import (
    MOST_SIDE,
    ResidentOptions,
    all_finite,
    between,
    check_memory,
    probability,
)

__all__ = ["Digits", "digit_images"]

BRIGHTEST = 16
"""The set counts the ink of 4x4 cells, 0..16."""
HELD_BACK = 5
"""Every fifth image of a class is for validation."""


@attrs.define(eq=False, kw_only=True)
class Digits(ResidentOptions):
    """1797 handwritten digits of the UCI optical recognition set, enlarged from 8x8 pixels.

    Split: within each class, in the order of the file, every fifth image is for validation. 1442 train, 355 validate.
    Shapes: uint8 [n,channels,size,size].
    """

    role = "data"
    gives_maps = 'object_map = "{name}"'

    size: int = attrs.field(default=32, validator=between(8, MOST_SIDE))
    """Height and width in pixels, enlarged from 8 bilinearly; from 8 to 8192."""
    channels: Literal[1, 3] = attrs.field(default=1, validator=in_((1, 3)))
    """1, or 3 equal ones for a network that takes colour only."""
    crop_padding: int = attrs.field(default=2, validator=between(0, MOST_SIDE))
    """Pixels added on every side before a random crop of the original size; 0: no crop."""
    padding_mode: PaddingMode = attrs.field(default="constant", validator=in_(("reflect", "constant")))
    """What the padding shows: "reflect" the image mirrored at its edge, "constant" zeros."""
    flip: float = attrs.field(default=0.0, validator=probability)
    """Probability of the left-right mirror image, in [0,1]; a mirrored digit is no digit."""
    mean: tuple[float, ...] = attrs.field(default=(0.305,), validator=all_finite)
    """Subtracted from pixels in [0,1]; one number stands for all channels."""
    std: tuple[float, ...] = attrs.field(default=(0.324,), validator=all_positive)
    """Pixels are divided by this after the mean is subtracted; above 0."""
    object_map: str | None = attrs.field(default=None, validator=optional(min_len(1)))
    """Name of a map to give, such as "object": the ink of each training image; absent: none."""

    @hookimpl
    def build_data(self) -> Data:
        """The two splits, enlarged."""
        images, labels, held_back = digit_images(self.size, self.channels)
        training = images[~held_back]
        return self.resident_data(
            (training, labels[~held_back]),
            (images[held_back], labels[held_back]),
            num_classes=10,
            class_names="0123456789",
            maps={self.object_map: training[:, :1]} if self.object_map else None,
        )


def digit_images(size: int, channels: int) -> tuple[Tensor, Tensor, Tensor]:
    """All images uint8 [n,channels,size,size], their digits int64 [n], and whether they are for validation, bool [n].

    Raises ConfigError for a size that this machine has no room for.
    """
    with (files("mixcore_plugins_builtin.data") / "digits.npz").open("rb") as file, np.load(file) as stored:
        cells, labels = torch.from_numpy(stored["images"]), torch.from_numpy(stored["labels"]).long()
    check_memory("data.size and data.channels", len(cells) * channels * size**2)
    images = enlarge(cells, size).expand(-1, channels, -1, -1).contiguous()
    return images, labels, held_back_rows(labels)


def enlarge(cells: Tensor, size: int) -> Tensor:
    """uint8 [n,8,8] in 0..16 -> uint8 [n,1,size,size] in 0..255."""
    bright = F.interpolate(cells[:, None].float() * (255 / BRIGHTEST), (size, size), mode="bilinear")
    return bright.round().to(torch.uint8)


def held_back_rows(labels: Tensor) -> Tensor:
    """bool [n]: the last of every five images of a class, in the given order."""
    held_back = torch.zeros(len(labels), dtype=torch.bool)
    for label in labels.unique():
        held_back[(labels == label).nonzero()[HELD_BACK - 1 :: HELD_BACK, 0]] = True
    return held_back
