"""Options and steps that the sets of image files of any size share."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import attrs
from attrs.validators import and_, gt, in_, le, optional

from mixcore.api import PLACE, Data, Task, all_positive
from mixcore_plugins_builtin.data.file_images import FileImages, MappedImages
from mixcore_plugins_builtin.data.folder_maps import scan_map_folders
from mixcore_plugins_builtin.data.folder_transforms import (
    Interpolation,
    TrainingTransform,
    evaluation_transform,
    rand_augment_words,
)
from mixcore_plugins_builtin.data.labelled import LabelledFiles
from mixcore_plugins_builtin.data.options import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    MOST_SIDE,
    OnCorrupt,
    all_finite,
    between,
    increasing_shares,
    probability,
)

__all__ = ["FileOptions"]

CHANNELS = 3
MOST_REPEATS = 1000
MOST_RESIZED = 2 * MOST_SIDE
"""Pixels of the short side before the validation crop."""


def _increasing(instance: object, attribute: attrs.Attribute[Any], value: tuple[float, float]) -> None:  # noqa: ARG001
    if not 0 < value[0] <= value[1] < math.inf:
        raise ValueError(f"{attribute.name} must be two finite numbers above 0, the smaller first, found {list(value)}")


def _resizable(instance: FileOptions, attribute: attrs.Attribute[Any], value: float) -> None:
    size = instance.test_size or instance.size
    if value > 0 and size > value * MOST_RESIZED:
        raise ValueError(
            f"{attribute.name} = {value:g} has images resized to {size / value:.3g} pixels before {size} of them are "
            f"cropped; at most {MOST_RESIZED}; raise it"
        )


def _three(instance: object, attribute: attrs.Attribute[Any], value: tuple[float, ...]) -> None:  # noqa: ARG001
    if len(value) != CHANNELS:
        raise ValueError(f"{attribute.name} must hold one number per channel (3), found {list(value)}")


def _movable(instance: FileOptions, attribute: attrs.Attribute[Any], value: Mapping[str, str]) -> None:
    if value and instance.rand_augment:
        raise ValueError(
            f"{attribute.name} and rand_augment cannot be combined: RandAugment turns and shears images and cannot do "
            'the same to their maps; set rand_augment = "", or give no maps'
        )


@attrs.define(eq=False, kw_only=True)
class FileOptions:
    """Crops, mirror images, RandAugment, erasing, maps and normalisation of images that are read by worker processes.

    Files are opened in RGB. Training images are cropped at random, validation images at the centre; so are those of the
    evaluation set "train", which are the training images again.
    """

    gives_maps = 'map_folders = { {name} = "FOLDER" }'

    size: int = attrs.field(default=224, validator=between(1, MOST_SIDE))
    """Height and width of training images in pixels, at most 8192."""
    test_size: int | None = attrs.field(default=None, validator=optional(between(1, MOST_SIDE)))
    """Height and width of validation images in pixels; as `size` where not given."""
    resize: int = attrs.field(default=0, validator=between(0, MOST_RESIZED))
    """Pixels that the short side of a training image is brought to before its crop; 0: cropped as it is."""
    scale: tuple[float, float] = attrs.field(default=(0.08, 1.0), validator=increasing_shares)
    """Share of the image's area that the random crop takes, from and to, in (0,1]."""
    ratio: tuple[float, float] = attrs.field(default=(3 / 4, 4 / 3), validator=_increasing)
    """Width over height of the random crop, from and to."""
    interpolation: Interpolation = attrs.field(default="bicubic", validator=in_(("bilinear", "bicubic")))
    """How crops are brought to their size, in training and validation."""
    flip: float = attrs.field(default=0.5, validator=probability)
    """Probability of the left-right mirror image, in [0,1]."""
    rand_augment: str = attrs.field(default="", validator=rand_augment_words)
    """RandAugment in timm's words, such as "rand-m7-mstd0.5-inc1", or "fixmatch-m7-mstd0.5"; empty: none."""
    random_erasing: float = attrs.field(default=0.0, validator=probability)
    """Probability that a rectangle is filled with noise after normalisation, in [0,1]."""
    crop_ratio: float = attrs.field(default=0.875, validator=and_(gt(0), le(1), _resizable))
    """Validation: crop size over the short side that the image is resized to (rounded to a pixel), in (0,1]."""
    repeats: int = attrs.field(default=1, validator=between(1, MOST_REPEATS))
    """Repeated augmentation: times that an image comes in an epoch of unchanged length; 1: off."""
    mean: tuple[float, ...] = attrs.field(default=IMAGENET_MEAN, validator=[_three, all_finite])
    """Subtracted from pixels in [0,1], per channel."""
    std: tuple[float, ...] = attrs.field(default=IMAGENET_STD, validator=[_three, all_positive])
    """Pixels are divided by this, per channel, after the mean is subtracted; above 0."""
    on_corrupt: OnCorrupt = attrs.field(default="refuse", validator=in_(("refuse", "skip")))
    """A file that cannot be decoded: "refuse" stops the run, "skip" takes the next one (validation: leaves it out)."""
    map_folders: Mapping[str, str] = attrs.field(factory=dict, metadata=PLACE, validator=_movable)
    """Maps of the training images by name: a folder that has a file for each at its path, with any ending."""

    def file_data(
        self, train: LabelledFiles, validation: LabelledFiles, further: Mapping[str, LabelledFiles] | None = None
    ) -> Data:
        """Both splits, for workers, and `further` ones as evaluation sets by name. Raises DataError where maps lack."""
        maps = scan_map_folders(self.map_folders, train, self.on_corrupt)
        training = TrainingTransform(
            size=self.size,
            resize=self.resize or None,
            scale=self.scale,
            ratio=self.ratio,
            interpolation=self.interpolation,
            flip=self.flip,
            augment=self.rand_augment,
            erasing=self.random_erasing,
            mean=self.mean,
            std=self.std,
        )
        evaluation = evaluation_transform(self.test_size or self.size, self.crop_ratio, self.interpolation)
        return Data(
            train=MappedImages(train, training, self.on_corrupt, maps)
            if maps
            else FileImages(train, training, self.on_corrupt),
            validation=FileImages(validation, evaluation, self.on_corrupt),
            task=Task(
                num_classes=train.num_classes,
                in_channels=CHANNELS,
                image_size=(self.size, self.size),
                mean=self.mean,
                std=self.std,
                label_kind=train.label_kind,
                class_names=train.classes,
            ),
            repeats=self.repeats,
            evaluation={
                name: FileImages(split, evaluation, self.on_corrupt)
                for name, split in {"train": train, **(further or {})}.items()
            },
        )
