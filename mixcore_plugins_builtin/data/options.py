"""Options and steps that the builtin data sets share."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import attrs
import torch
from attrs.validators import ge, in_
from torch import Tensor

from mixcore.api import ConfigError, CropFlip, Data, PaddingMode, Resident, Task, all_positive

__all__ = [
    "CIFAR_MEAN",
    "CIFAR_STD",
    "IMAGENET_MEAN",
    "IMAGENET_STD",
    "OnCorrupt",
    "ResidentOptions",
    "class_labels",
    "found",
    "probability",
]

CIFAR_MEAN, CIFAR_STD = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)
"""The std is the mean of the images' own stds, smaller than the set's; every published CIFAR number here uses it."""
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

OnCorrupt = Literal["refuse", "skip"]


def probability(instance: object, attribute: attrs.Attribute[Any], value: float) -> None:  # noqa: ARG001
    """Validator: in [0,1]."""
    if not 0 <= value <= 1:
        raise ValueError(f"{attribute.name} must lie in [0,1], found {value}")


def found(path: str | Path) -> str:
    """The path in full and what is there, for messages about missing data."""
    full = Path(path).expanduser().absolute()
    if full.is_dir():
        return f"{full} (a folder)"
    return f"{full} (a file)" if full.exists() else f"{full} (does not exist)"


@attrs.define(eq=False, kw_only=True)
class ResidentOptions:
    """Augmentation and normalisation of a set that lives on the device."""

    crop_padding: int = attrs.field(default=4, validator=ge(0))
    """Pixels added on every side before a random crop of the original size; 0: no crop."""
    padding_mode: PaddingMode = attrs.field(default="reflect", validator=in_(("reflect", "constant")))
    """What the padding shows: "reflect" the image mirrored at its edge, "constant" zeros."""
    flip: float = attrs.field(default=0.5, validator=probability)
    """Probability of the left-right mirror image, in [0,1]."""
    mean: tuple[float, ...] = IMAGENET_MEAN
    """Subtracted from pixels in [0,1], per channel; one number stands for all channels."""
    std: tuple[float, ...] = attrs.field(default=IMAGENET_STD, validator=all_positive)
    """Pixels are divided by this, per channel, after the mean is subtracted; above 0."""

    def resident_data(self, train: tuple[Tensor, Tensor], validation: tuple[Tensor, Tensor], num_classes: int) -> Data:
        """The Data of two pairs: images uint8 [n,C,H,W], labels int64 [n]. ConfigError where options do not fit."""
        channels, height, width = train[0].shape[1:]
        if self.padding_mode == "reflect" and self.crop_padding >= min(height, width):
            raise ConfigError(
                f'data.crop_padding = {self.crop_padding} with padding_mode = "reflect" needs images larger than that; '
                f"these are {height}x{width}; lower crop_padding"
            )
        task = Task(
            num_classes=num_classes,
            in_channels=channels,
            image_size=(height, width),
            mean=_per_channel("mean", self.mean, channels),
            std=_per_channel("std", self.std, channels),
        )
        augment = CropFlip(padding=self.crop_padding, mode=self.padding_mode, flip=self.flip)
        return Data(
            train=Resident(
                images=train[0], labels=train[1], augment=augment if self.crop_padding or self.flip else None
            ),
            validation=Resident(images=validation[0], labels=validation[1]),
            task=task,
        )


def _per_channel(name: str, values: tuple[float, ...], channels: int) -> tuple[float, ...]:
    if len(values) == 1:
        return values * channels
    if len(values) != channels:
        raise ConfigError(
            f"data.{name} has {len(values)} numbers and the images have {channels} channel"
            f"{'' if channels == 1 else 's'}; give one number per channel, or one for all"
        )
    return values


def class_labels(values: Sequence[int]) -> Tensor:
    """Labels as int64 [n]."""
    return torch.as_tensor(values, dtype=torch.int64)
