"""CIFAR-10 and CIFAR-100, in torchvision's layout or as image folders."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import attrs
import torch
from attrs.validators import in_, optional
from torch import Tensor
from torchvision import datasets

from mixcore.api import PLACE, Data, DataError, PaddingMode, Task, all_positive, hookimpl
from mixcore_plugins_builtin.data.decode import decode_all
from mixcore_plugins_builtin.data.folder_transforms import (
    PaddedCrops,
    TrainingTransform,
    Transform,
    evaluation_transform,
    rand_augment_words,
)
from mixcore_plugins_builtin.data.folders import scan_splits
from mixcore_plugins_builtin.data.labelled import LabelledFiles
from mixcore_plugins_builtin.data.options import (
    CIFAR_MEAN,
    CIFAR_STD,
    MOST_SIDE,
    OnCorrupt,
    ResidentOptions,
    all_finite,
    between,
    class_labels,
    data_path,
    found,
    increasing_shares,
    probability,
)
from mixcore_plugins_builtin.data.pixel_set import PixelSet
from mixcore_plugins_builtin.data.torchvision_sets import open_torchvision

__all__ = ["Cifar10", "Cifar100"]

TRAIN_IMAGES, TEST_IMAGES = 50_000, 10_000
SIDE = 32
ANY_SHARE, ANY_RATIO = (0.08, 1.0), (3 / 4, 4 / 3)
"""Torchvision's own bounds of a random resized crop."""


@attrs.define(eq=False, kw_only=True)
class _Cifar(ResidentOptions):
    """Options and reading of both sets: 50,000 training and 10,000 test images, uint8 [n,3,32,32].

    They live on the device, augmented there by crop and mirror image, unless `size`, `scale`, `rand_augment` or
    `random_erasing` asks for more: then workers read them one at a time, and what is drawn is drawn otherwise.
    """

    role = "data"
    title: ClassVar[str]
    dataset: ClassVar[Any]
    num_classes: ClassVar[int]

    root: str = attrs.field(default="data", metadata=PLACE)
    """Folder that holds torchvision's folder of the set, or train/<class>/ and test/<class>/ with image files."""
    download: bool = attrs.field(default=False, metadata=PLACE)
    """Let torchvision fetch the set into `root` where it is missing."""
    on_corrupt: OnCorrupt = attrs.field(default="refuse", validator=in_(("refuse", "skip")))
    """An image file that cannot be decoded: "refuse" stops, "skip" leaves it out and says so."""
    mean: tuple[float, ...] = attrs.field(default=CIFAR_MEAN, validator=all_finite)
    """Subtracted from pixels in [0,1], per channel; one number stands for all channels."""
    std: tuple[float, ...] = attrs.field(default=CIFAR_STD, validator=all_positive)
    """Pixels are divided by this, per channel, after the mean is subtracted; above 0."""

    size: int | None = attrs.field(default=None, validator=optional(between(1, MOST_SIDE)))
    """Height and width in pixels of crops, and of whole validation images, resized (bicubic); absent: 32."""
    scale: tuple[float, float] | None = attrs.field(default=None, validator=optional(increasing_shares))
    """Share of the area that a random resized crop takes, from and to, in (0,1]; absent: 0.08 to 1 where `size` is
    given, else the crop is one of the padded image."""
    rand_augment: str = attrs.field(default="", validator=rand_augment_words)
    """RandAugment: "fixmatch-m7-mstd0.5", or timm's words, such as "rand-m9-mstd0.5-inc1"; empty: none."""
    random_erasing: float = attrs.field(default=0.0, validator=probability)
    """Probability that a rectangle is filled with noise after normalisation, in [0,1]."""

    @hookimpl
    def build_data(self) -> Data:
        """The training and the test set. DataError where they are missing or incomplete."""
        root = data_path(self.root)
        torchvision_folder = root / self.dataset.base_folder
        if not os.path.exists(torchvision_folder) and not self.download and os.path.isdir(root / "train"):
            return self._from_folders(root)
        layout = f"torchvision's files in it, or image folders {root}/train/<class>/*.png and {root}/test/<class>/*.png"
        train, test = (self._open(root, torchvision_folder, layout, train=train) for train in (True, False))
        return self._data(_tensors(train), _tensors(test), train.classes)

    def _open(self, root: Path, folder: Path, layout: str, *, train: bool) -> Any:
        return open_torchvision(self.dataset, self.title, root, folder, layout, self.download, train=train)

    def _from_folders(self, root: Path) -> Data:
        train, test = scan_splits(root, "train", "test", self.on_corrupt)
        counts = train.num_classes, len(train), len(test)
        expected = self.num_classes, TRAIN_IMAGES, TEST_IMAGES
        if counts != expected:
            raise DataError(
                f"{found(root)} holds {counts[0]} classes, {counts[1]} training and {counts[2]} test images; "
                f"{self.title} has {expected[0]}, {expected[1]} and {expected[2]}; complete it, or read another set "
                'of your own with data.name = "image_folder"'
            )
        decoded = self._decoded(train, "the training set"), self._decoded(test, "the test set")
        return self._data(*decoded, train.classes)

    def _data(self, train: tuple[Tensor, Tensor], test: tuple[Tensor, Tensor], names: Sequence[str] | None) -> Data:
        """Of pairs of images and labels: on the device where tensor code augments them, else for workers."""
        resident = self.resident_data(train, test, self.num_classes, names)
        resized = self.size is not None or self.scale is not None
        if not (resized or self.rand_augment or self.random_erasing):
            return resident
        size = self.size or SIDE
        task = attrs.evolve(resident.task, image_size=(size, size))
        evaluation = evaluation_transform(size, 1.0, "bicubic")
        return Data(
            train=PixelSet(*train, self._training(task, resized)),
            validation=PixelSet(*test, evaluation),
            task=task,
            evaluation={"train": PixelSet(*train, evaluation)},
        )

    def _training(self, task: Task, resized: bool) -> Transform:
        further: dict[str, Any] = {
            "flip": self.flip,
            "augment": self.rand_augment,
            "erasing": self.random_erasing,
            "mean": task.mean,
            "std": task.std,
        }
        size = task.image_size[0]
        if not resized:
            return PaddedCrops(size=size, padding=self.crop_padding, mode=self.padding_mode, **further)
        scale = self.scale or ANY_SHARE
        return TrainingTransform(size=size, scale=scale, ratio=ANY_RATIO, interpolation="bicubic", **further)

    def _decoded(self, split: LabelledFiles, where: str) -> tuple[Tensor, Tensor]:
        paths = (split.path(index) for index in range(len(split)))
        images, kept = decode_all(((str(path), path) for path in paths), where, self.on_corrupt)
        return images, torch.from_numpy(split.labels)[kept]


def _tensors(dataset: Any) -> tuple[Tensor, Tensor]:
    images = torch.from_numpy(dataset.data).permute(0, 3, 1, 2).contiguous()
    return images, class_labels(dataset.targets)


@attrs.define(eq=False, kw_only=True)
class Cifar10(_Cifar):
    """CIFAR-10: 10 classes of 32x32 colour images; pads with zeros, as the published numbers do."""

    title = "CIFAR-10"
    dataset = datasets.CIFAR10
    num_classes = 10

    padding_mode: PaddingMode = attrs.field(default="constant", validator=in_(("reflect", "constant")))
    """What the padding shows: "reflect" the image mirrored at its edge, "constant" zeros."""


@attrs.define(eq=False, kw_only=True)
class Cifar100(_Cifar):
    """CIFAR-100: 100 fine classes of 32x32 colour images."""

    title = "CIFAR-100"
    dataset = datasets.CIFAR100
    num_classes = 100
