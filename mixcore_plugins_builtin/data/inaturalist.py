"""iNaturalist 2017 and 2018, by the annotations of the challenges."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import attrs

from mixcore.api import DataError
from mixcore_plugins_builtin.data.labelled import LabelledFiles, some
from mixcore_plugins_builtin.data.options import MOST_CLASSES
from mixcore_plugins_builtin.data.published import PublishedSet, Release
from mixcore_plugins_builtin.data.samples import files_of_samples

__all__ = ["INat2017", "INat2018"]

SHAPE = '"images" with "id" and "file_name", and "annotations" with "image_id" and "category_id"'


@attrs.define(eq=False, kw_only=True)
class _INaturalist(PublishedSet):
    """Images and classes from COCO-style JSON files; a label is the annotation's category id."""

    year: ClassVar[int]

    def training_files(self, folder: Path) -> LabelledFiles:
        """The images of train<year>.json."""
        return self._annotated(folder, "train", None)

    def validation_files(self, folder: Path, train: LabelledFiles) -> LabelledFiles:
        """The images of val<year>.json."""
        return self._annotated(folder, "val", train.num_classes)

    def _annotated(self, folder: Path, split: str, num_classes: int | None) -> LabelledFiles:
        path = self.need(folder / f"{split}{self.year}.json")
        return files_of_samples(folder, list(_samples(path)), path, self.on_corrupt, num_classes=num_classes)


def _samples(path: Path) -> Iterator[tuple[str, int]]:
    """File name and category of each annotated image. Raises DataError for a file of another shape."""
    try:
        content = json.loads(path.read_bytes())
        files = {image["id"]: image["file_name"] for image in content["images"]}
        annotated = [(one["image_id"], one["category_id"]) for one in content["annotations"]]
        _check_types(files, annotated)
        if len(files) < len(content["images"]):
            raise ValueError("two images have one id")
        differing = sorted({image for image, _ in annotated} ^ files.keys(), key=str)
    except OSError as error:
        raise DataError(f"{path.absolute()} cannot be read ({error.strerror or error})") from error
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise DataError(
            f"{path.absolute()} is no annotation of images ({error!r}); expected JSON with {SHAPE}"
        ) from error
    if differing:
        raise DataError(
            f"{path.absolute()} has images without an annotation, or annotations without an image: {some(differing)}; "
            "expected an annotation for each image"
        )
    return ((files[image], category) for image, category in annotated)


def _check_types(files: Mapping[Any, Any], annotated: list[tuple[Any, Any]]) -> None:
    if not all(isinstance(name, str) for name in files.values()):
        raise TypeError("a file_name is no string")
    if not all(type(category) is int and abs(category) <= MOST_CLASSES for _, category in annotated):
        raise TypeError("a category_id is no integer that numbers a class")


@attrs.define(eq=False, kw_only=True)
class INat2017(_INaturalist):
    """iNaturalist 2017: species of plants and animals, by the JSON files of the challenge."""

    year = 2017
    release = Release(
        title="iNaturalist 2017",
        classes=5_089,
        train=579_184,
        validation=95_986,
        doubted=("train", "validation"),
        folder="inat2017",
        images=("", ""),
        layout="train_val_images/ with train2017.json and val2017.json",
        source="the training and validation images and annotations of the iNaturalist challenge of 2017 (FGVC4)",
    )


@attrs.define(eq=False, kw_only=True)
class INat2018(_INaturalist):
    """iNaturalist 2018: species of plants and animals, by the JSON files of the challenge."""

    year = 2018
    release = Release(
        title="iNaturalist 2018",
        classes=8_142,
        train=437_513,
        validation=24_426,
        doubted=("validation",),
        folder="inat2018",
        images=("", ""),
        layout="train_val2018/ with train2018.json and val2018.json",
        source="the training and validation images and annotations of the iNaturalist challenge of 2018 (FGVC5)",
    )
