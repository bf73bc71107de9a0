"""Options and steps that the builtin data sets share."""

from __future__ import annotations

import math
import os
import stat
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import attrs
import torch
from attrs.validators import in_
from torch import Tensor

from mixcore.api import ConfigError, CropFlip, Data, PaddingMode, Resident, Task, all_positive

__all__ = [
    "CIFAR_MEAN",
    "CIFAR_STD",
    "IMAGENET_MEAN",
    "IMAGENET_STD",
    "MOST_CLASSES",
    "MOST_SIDE",
    "OnCorrupt",
    "ResidentOptions",
    "all_finite",
    "between",
    "check_memory",
    "class_labels",
    "data_path",
    "found",
    "increasing_shares",
    "probability",
]

CIFAR_MEAN, CIFAR_STD = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)
"""The std is the mean of the images' own stds, smaller than the set's; every published CIFAR number here uses it."""
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

MOST_SIDE = 8192
"""Pixels of the longest side that an image is brought to; an image of that size takes 200 MB in RGB."""
MOST_CLASSES = 10_000_000
"""Beyond any classification set, so that a number that is no class is told before it sizes a network's head."""
ECHOED = 10**20
"""Numbers from here on are not written out in messages."""
BYTES_WHILE_MADE = 9
"""Of one pixel value of a set that is computed: float32 before and after, then uint8."""

OnCorrupt = Literal["refuse", "skip"]


def probability(instance: object, attribute: attrs.Attribute[Any], value: float) -> None:  # noqa: ARG001
    """Validator: in [0,1]."""
    if not 0 <= value <= 1:
        raise ValueError(f"{attribute.name} must lie in [0,1], found {value}")


def all_finite(instance: object, attribute: attrs.Attribute[Any], value: Sequence[float]) -> None:  # noqa: ARG001
    """Validator: at least one number, none of them NaN or infinite."""
    if not (value and all(map(math.isfinite, value))):
        raise ValueError(f"{attribute.name} must hold finite numbers, found {list(value)}")


def increasing_shares(instance: object, attribute: attrs.Attribute[Any], value: tuple[float, float]) -> None:  # noqa: ARG001
    """Validator: two numbers in (0,1], the smaller first."""
    if not 0 < value[0] <= value[1] <= 1:
        raise ValueError(f"{attribute.name} must be two shares in (0,1], the smaller first, found {list(value)}")


def between(lowest: int, highest: int) -> Callable[[object, attrs.Attribute[Any], int], None]:
    """Validator: an integer from `lowest` to `highest`, such as a side in pixels."""

    def check(instance: object, attribute: attrs.Attribute[Any], value: int) -> None:  # noqa: ARG001
        if not lowest <= value <= highest:
            shown = value if abs(value) < ECHOED else "one of many digits"
            raise ValueError(f"{attribute.name} must lie in {lowest}..{highest}, found {shown}")

    return check


def check_memory(options: str, numbers: int) -> None:
    """Refuse a set of so many pixel values that this machine cannot make it: ConfigError that names the `options`."""
    needed, there = BYTES_WHILE_MADE * numbers, _physical_memory()
    if needed > there:
        raise ConfigError(
            f"{options} make a set that takes {needed >> 30:,} GiB while it is made, and this machine has "
            f"{there >> 30:,} GiB; lower them"
        )


def _physical_memory() -> int:
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):  # a system that does not tell
        return 1 << 40


def data_path(text: str) -> Path:
    """The path with ~ replaced; of a user that is not known it stays."""
    return Path(os.path.expanduser(text))


def found(path: str | Path) -> str:
    """The path in full and what is there, for messages about missing data."""
    full = data_path(str(path)).absolute()
    try:
        mode = full.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return f"{full} (does not exist)"
    except (OSError, ValueError) as error:
        return f"{full} (cannot be reached: {getattr(error, 'strerror', None) or error})"
    return f"{full} (a folder)" if stat.S_ISDIR(mode) else f"{full} (a file)"


@attrs.define(eq=False, kw_only=True)
class ResidentOptions:
    """Augmentation and normalisation of a set that lives on the device."""

    crop_padding: int = attrs.field(default=4, validator=between(0, MOST_SIDE))
    """Pixels added on every side before a random crop of the original size; 0: no crop."""
    padding_mode: PaddingMode = attrs.field(default="reflect", validator=in_(("reflect", "constant")))
    """What the padding shows: "reflect" the image mirrored at its edge, "constant" zeros."""
    flip: float = attrs.field(default=0.5, validator=probability)
    """Probability of the left-right mirror image, in [0,1]."""
    mean: tuple[float, ...] = attrs.field(default=IMAGENET_MEAN, validator=all_finite)
    """Subtracted from pixels in [0,1], per channel; one number stands for all channels."""
    std: tuple[float, ...] = attrs.field(default=IMAGENET_STD, validator=all_positive)
    """Pixels are divided by this, per channel, after the mean is subtracted; above 0."""

    def resident_data(
        self,
        train: tuple[Tensor, Tensor],
        validation: tuple[Tensor, Tensor],
        num_classes: int,
        class_names: Sequence[str] | None = None,
        maps: Mapping[str, Tensor] | None = None,
    ) -> Data:
        """The Data of two pairs: images uint8 [n,C,H,W], labels int64 [n] or values float32 [n,num_classes].

        Raises ConfigError where options do not fit. `class_names` (of values their names) are left out where they are
        not as many as the classes. `maps` uint8 [n,c,H,W] are those of the training images, which, not augmented, are
        the evaluation set "train".
        """
        channels, height, width = train[0].shape[1:]
        if self.crop_padding >= min(height, width):
            raise ConfigError(
                f"data.crop_padding = {self.crop_padding} needs images larger than that, or a crop may show none of "
                f"the image; these are {height}x{width}; lower crop_padding"
            )
        task = Task(
            num_classes=num_classes,
            in_channels=channels,
            image_size=(height, width),
            mean=_per_channel("mean", self.mean, channels),
            std=_per_channel("std", self.std, channels),
            label_kind="value" if train[1].is_floating_point() else "class",
            class_names=tuple(class_names) if class_names and len(class_names) == num_classes else None,
        )
        augment = CropFlip(padding=self.crop_padding, mode=self.padding_mode, flip=self.flip)
        return Data(
            train=Resident(
                images=train[0],
                labels=train[1],
                augment=augment if self.crop_padding or self.flip else None,
                maps=maps or {},
            ),
            validation=Resident(images=validation[0], labels=validation[1]),
            task=task,
            evaluation={"train": Resident(images=train[0], labels=train[1])},
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
