"""Places205, by the lists of its release."""

from __future__ import annotations

import os
from pathlib import Path

import attrs

from mixcore_plugins_builtin.data.labelled import LabelledFiles
from mixcore_plugins_builtin.data.lists import read_list
from mixcore_plugins_builtin.data.published import PublishedSet, Release
from mixcore_plugins_builtin.data.samples import files_of_samples

__all__ = ["Places205"]

LISTS = "trainvalsplit_places205"


@attrs.define(eq=False, kw_only=True)
class Places205(PublishedSet):
    """Places205: 256x256 colour images of 205 kinds of scene, by the lists of the release."""

    release = Release(
        title="Places205",
        classes=205,
        train=2_448_873,
        validation=20_500,
        doubted=("train", "validation"),
        folder="places205",
        images=("images256", "images256"),
        layout="images256/<letter>/<category>/*.jpg with train_places205.csv and val_places205.csv, beside it or in "
        f"{LISTS}/",
        source="the resized images and the training and validation split of MIT's Places205, after registration",
    )

    def training_files(self, folder: Path) -> LabelledFiles:
        """The images of train_places205.csv."""
        return self._listed_in_release(folder, "train", None)

    def validation_files(self, folder: Path, train: LabelledFiles) -> LabelledFiles:
        """The images of val_places205.csv."""
        return self._listed_in_release(folder, "val", train.num_classes)

    def _listed_in_release(self, folder: Path, split: str, num_classes: int | None) -> LabelledFiles:
        name = f"{split}_places205.csv"
        path = self.need(folder / LISTS / name if os.path.exists(folder / LISTS / name) else folder / name)
        return files_of_samples(
            self.need(folder / "images256"), read_list(path), path, self.on_corrupt, num_classes=num_classes
        )
