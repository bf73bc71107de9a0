"""ImageNet-1k and Tiny-ImageNet."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import attrs

from mixcore.api import DataError
from mixcore_plugins_builtin.data.labelled import LabelledFiles
from mixcore_plugins_builtin.data.options import found
from mixcore_plugins_builtin.data.published import PublishedSet, Release
from mixcore_plugins_builtin.data.samples import files_of_samples
from mixcore_plugins_builtin.data.text_files import numbered_lines, read_pairs

__all__ = ["ImageNet", "TinyImageNet"]


@attrs.define(eq=False, kw_only=True)
class ImageNet(PublishedSet):
    """ImageNet-1k (ILSVRC 2012) by class folders; validation images may lie flat, beside a list of their labels."""

    release = Release(
        title="ImageNet-1k",
        classes=1000,
        train=1_281_167,
        validation=50_000,
        folder="imagenet",
        images=("train", "val"),
        layout="train/<wnid>/*.JPEG and val/<wnid>/*.JPEG, or val/*.JPEG with data.validation_list",
        source="the training and validation images of ILSVRC2012, on the ImageNet project's page after registration",
    )

    def training_files(self, folder: Path) -> LabelledFiles:
        """By class folders."""
        return self.class_folders(folder, "train", "val")

    def validation_files(self, folder: Path, train: LabelledFiles) -> LabelledFiles:  # noqa: ARG002
        """By class folders. DataError where the images lie flat, as they were published."""
        flat = next(self.need(folder / "val").glob("ILSVRC2012_val_*.JPEG"), None)
        if flat:
            raise DataError(
                f"{found(flat.parent)} has validation images that are in no class folder, such as {flat.name}; set "
                "data.validation_list to a list of them with their labels, or move them to val/<wnid>/"
            )
        return self.class_folders(folder, "val", "train")


@attrs.define(eq=False, kw_only=True)
class TinyImageNet(PublishedSet):
    """Tiny-ImageNet: 64x64 colour images of 200 classes, as its archive has them or with val/<wnid>/ folders.

    Validation images are taken as they are: crop_ratio 1 at their own size.
    """

    release = Release(
        title="Tiny-ImageNet",
        classes=200,
        train=100_000,
        validation=10_000,
        folder="tiny-imagenet-200",
        images=("train", "val"),
        layout="train/<wnid>/images/*.JPEG and val/images/*.JPEG with val/val_annotations.txt, or val/<wnid>/*.JPEG",
        source="the archive tiny-imagenet-200 of Stanford's course CS231n",
    )

    size: int = attrs.field(default=64, validator=attrs.fields(PublishedSet).size.validator)
    """Height and width of training images in pixels, at most 8192."""
    crop_ratio: float = attrs.field(default=1.0, validator=attrs.fields(PublishedSet).crop_ratio.validator)
    """Validation: crop size over the short side that the image is resized to (rounded to a pixel), in (0,1]."""

    def training_files(self, folder: Path) -> LabelledFiles:
        """By class folders."""
        return self.class_folders(folder, "train", "val")

    def validation_files(self, folder: Path, train: LabelledFiles) -> LabelledFiles:
        """By val_annotations.txt where the images lie as they were published, otherwise by class folders."""
        images = folder / "val" / "images"
        if not (os.path.isdir(images) and os.listdir(images)):
            return self.class_folders(folder, "val", "train")
        annotations = self.need(folder / "val" / "val_annotations.txt")
        classes = train.classes or _ids(self.need(folder / "wnids.txt"))
        samples = _annotated(annotations, classes)
        return files_of_samples(
            images, samples, annotations, self.on_corrupt, num_classes=train.num_classes, classes=classes
        )


def _ids(path: Path) -> tuple[str, ...]:
    return tuple(sorted(line for _, line in numbered_lines(path)))


def _annotated(path: Path, classes: tuple[str, ...]) -> Iterator[tuple[str, int]]:
    """Image and label of each line: a file name, a WordNet id, a box."""
    label_of = {name: label for label, name in enumerate(classes)}
    for image, rest in read_pairs(path).items():
        own = rest.split()[0]
        if own not in label_of:
            raise DataError(
                f"{path.absolute()} gives {image} the id {own!r}, which is none of the {len(classes)} classes of "
                "training; complete the training images"
            )
        yield image, label_of[own]
