"""Image folders of any size, read by worker processes."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from typing import Any

import attrs
from attrs.validators import and_, gt, in_, le, optional
from PIL.Image import Image
from torch.utils.data import Dataset

from mixcore.api import PLACE, Data, Task, UnreadableSampleError, all_positive, hookimpl
from mixcore_plugins_builtin.data.decode import open_rgb
from mixcore_plugins_builtin.data.folder_maps import MapFiles, scan_map_folders
from mixcore_plugins_builtin.data.folder_transforms import (
    Interpolation,
    TrainingTransform,
    Transform,
    evaluation_transform,
    rand_augment_words,
)
from mixcore_plugins_builtin.data.folders import ClassFolders, scan_splits
from mixcore_plugins_builtin.data.options import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    MOST_SIDE,
    OnCorrupt,
    all_finite,
    between,
    data_path,
    increasing_shares,
    probability,
)

__all__ = ["FolderImages", "ImageFolder"]

CHANNELS = 3
MOST_REPEATS = 1000
MOST_RESIZED = 2 * MOST_SIDE
"""Pixels of the short side before the validation crop."""
MOST_ASPECT = 1000
"""Long over short side of an image; a line one pixel high would be resized to gigabytes."""


class FolderImages(Dataset[Any]):
    """Images of class folders, opened in RGB and transformed. Raises UnreadableSampleError for a corrupt file."""

    def __init__(self, folders: ClassFolders, transform: Transform, on_corrupt: OnCorrupt) -> None:
        self.folders, self.transform, self.on_corrupt = folders, transform, on_corrupt

    def __len__(self) -> int:
        return len(self.folders)

    def fingerprint(self) -> str:
        """Hash of names, labels and sizes of all files: another image of the same size under a name is not told."""
        return self.folders.fingerprint()

    def __getitem__(self, index: int) -> Any:
        """Image uint8 or float32 [3,H,W] and label."""
        return self.transform(self.opened(index)), self.label(index)

    def label(self, index: int) -> int:
        """Rank of the class folder."""
        return int(self.folders.labels[index])

    def opened(self, index: int) -> Image:
        """The image in RGB, as large as its file has it."""
        path = self.folders.path(index)
        image: Image = open_rgb(path, str(path), self.on_corrupt)
        if max(image.size) > MOST_ASPECT * min(image.size):
            raise UnreadableSampleError(
                f"{path} is {image.width}x{image.height}; at most {MOST_ASPECT} times as long as short can be resized",
                skip=self.on_corrupt == "skip",
            )
        return image


class MappedImages(FolderImages):
    """The same with a map of each image, or several, cropped and mirrored as it is."""

    def __init__(
        self, folders: ClassFolders, transform: TrainingTransform, on_corrupt: OnCorrupt, maps: Sequence[MapFiles]
    ) -> None:
        super().__init__(folders, transform, on_corrupt)
        self.together, self.maps = transform.with_maps, maps

    def fingerprint(self) -> str:
        """Hash of names and sizes of the maps too."""
        told = (super().fingerprint(), *(one.fingerprint() for one in self.maps))
        return hashlib.sha256("\n".join(told).encode()).hexdigest()

    def __getitem__(self, index: int) -> Any:
        """Image, label, and maps uint8 [c,H,W] by name."""
        image, path = self.opened(index), self.folders.path(index)
        maps = {one.name: one.read(index, path, image.size, self.on_corrupt) for one in self.maps}
        moved, with_it = self.together(image, maps)
        return moved, self.label(index), with_it


def _increasing(instance: object, attribute: attrs.Attribute[Any], value: tuple[float, float]) -> None:  # noqa: ARG001
    if not 0 < value[0] <= value[1] < math.inf:
        raise ValueError(f"{attribute.name} must be two finite numbers above 0, the smaller first, found {list(value)}")


def _resizable(instance: ImageFolder, attribute: attrs.Attribute[Any], value: float) -> None:
    size = instance.test_size or instance.size
    if value > 0 and size > value * MOST_RESIZED:
        raise ValueError(
            f"{attribute.name} = {value:g} has images resized to {size / value:.3g} pixels before {size} of them are "
            f"cropped; at most {MOST_RESIZED}; raise it"
        )


def _three(instance: object, attribute: attrs.Attribute[Any], value: tuple[float, ...]) -> None:  # noqa: ARG001
    if len(value) != CHANNELS:
        raise ValueError(f"{attribute.name} must hold one number per channel (3), found {list(value)}")


def _movable(instance: ImageFolder, attribute: attrs.Attribute[Any], value: Mapping[str, str]) -> None:
    if value and instance.rand_augment:
        raise ValueError(
            f"{attribute.name} and rand_augment cannot be combined: RandAugment turns and shears images and cannot do "
            'the same to their maps; set rand_augment = "", or give no maps'
        )


@attrs.define(eq=False, kw_only=True)
class ImageFolder:
    """Any set kept as root/train/<class>/<image> and root/val/<class>/<image>; a label is the rank of its folder name.

    Files are opened in RGB. Training images are cropped at random, validation images at the centre; so are those of the
    evaluation set "train", which are the training images again.
    """

    role = "data"

    root: str = attrs.field(default="data", metadata=PLACE)
    """Folder that holds the two splits."""
    train: str = "train"
    """Folder of the training split below `root`."""
    validation: str = "val"
    """Folder of the validation split below `root`."""
    size: int = attrs.field(default=224, validator=between(1, MOST_SIDE))
    """Height and width of training images in pixels, at most 8192."""
    test_size: int | None = attrs.field(default=None, validator=optional(between(1, MOST_SIDE)))
    """Height and width of validation images in pixels; as `size` where not given."""
    resize: int | None = attrs.field(default=None, validator=optional(between(1, MOST_RESIZED)))
    """Pixels that the short side of a training image is brought to before its crop; absent: cropped as it is."""
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
    """Maps of the training images by name: a folder that has a file for each, `<class>/<image>` with any ending."""

    @hookimpl
    def build_data(self) -> Data:
        """Both splits, for workers. DataError where a folder is missing or empty, the classes differ, or maps lack."""
        train, validation = scan_splits(data_path(self.root), self.train, self.validation, self.on_corrupt)
        maps = scan_map_folders(self.map_folders, train, self.on_corrupt)
        training = TrainingTransform(
            size=self.size,
            scale=self.scale,
            ratio=self.ratio,
            interpolation=self.interpolation,
            resize=self.resize,
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
            else FolderImages(train, training, self.on_corrupt),
            validation=FolderImages(validation, evaluation, self.on_corrupt),
            task=Task(
                num_classes=len(train.classes),
                in_channels=CHANNELS,
                image_size=(self.size, self.size),
                mean=self.mean,
                std=self.std,
                class_names=train.classes,
            ),
            repeats=self.repeats,
            evaluation={"train": FolderImages(train, evaluation, self.on_corrupt)},
        )
