"""Options and steps of image sets that list files may describe."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import attrs

from mixcore.api import PLACE, DataError
from mixcore_plugins_builtin.data.file_options import FileOptions
from mixcore_plugins_builtin.data.labelled import LabelledFiles
from mixcore_plugins_builtin.data.lists import read_list
from mixcore_plugins_builtin.data.options import data_path, found
from mixcore_plugins_builtin.data.samples import files_of_samples

__all__ = ["ListOptions"]


def _beside_its_list(instance: Any, attribute: attrs.Attribute[Any], value: str) -> None:
    own = attribute.name.replace("_images", "_list")
    if value and not getattr(instance, own):
        raise ValueError(f"{attribute.name} is where the images of {own} lie; set data.{own}, or leave it out")


@attrs.define(eq=False, kw_only=True)
class ListOptions(FileOptions):
    """Where lists and their images are."""

    root: str = attrs.field(default="data", metadata=PLACE)
    """Folder of the set, or the one above it."""
    train_list: str = ""
    """List of the training images below `root`, a path and a label a line; empty: as the set itself lies there."""
    validation_list: str = ""
    """List of the validation images below `root`; empty: as the set itself lies there."""
    train_images: str = attrs.field(default="", metadata=PLACE, validator=_beside_its_list)
    """Folder below `root` that the paths of `train_list` start from; empty: where the set has its training images."""
    validation_images: str = attrs.field(default="", metadata=PLACE, validator=_beside_its_list)
    """Folder below `root` that the paths of `validation_list` start from; empty: where the set has such images."""

    def listed_training(self, images: Path) -> LabelledFiles:
        """The images of `train_list`, in `train_images` or else `images`. Raises DataError for a list at fault."""
        return self._listed("train", images, None)

    def listed_validation(self, images: Path, num_classes: int) -> LabelledFiles:
        """The images of `validation_list`, in `validation_images` or else `images`. Raises DataError as above."""
        return self._listed("validation", images, num_classes)

    def _listed(self, split: str, images: Path, num_classes: int | None) -> LabelledFiles:
        root = data_path(self.root)
        file, own = (getattr(self, f"{split}_{what}") for what in ("list", "images"))
        path, folder = root / data_path(file), root / data_path(own) if own else images
        if not os.path.isfile(path):
            raise DataError(
                f"no list at {found(path)}; expected a text file with a path and a label in each line; set data.root "
                f"to the folder that it lies in, and data.{split}_list to its path below that"
            )
        samples = read_list(path)
        if not os.path.isdir(folder):
            raise DataError(
                f"no folder at {found(folder)}; expected the images that {path.absolute()} names, such as "
                f"{samples[0][0]!r}; set data.{split}_images to the folder below data.root that its paths start from"
            )
        return files_of_samples(folder, samples, path, self.on_corrupt, num_classes=num_classes)
