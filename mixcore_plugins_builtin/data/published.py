"""What the published sets of image files have in common: a release, its size, and lists in its place."""

from __future__ import annotations

import logging
import os
from abc import ABC, abstractmethod
from pathlib import Path
from typing import ClassVar

import attrs

from mixcore.api import Data, DataError, hookimpl
from mixcore_plugins_builtin.data.folders import check_same_classes, scan_class_folders
from mixcore_plugins_builtin.data.labelled import LabelledFiles
from mixcore_plugins_builtin.data.list_options import ListOptions
from mixcore_plugins_builtin.data.options import data_path, found

__all__ = ["PublishedSet", "Release"]

logger = logging.getLogger("mixcore")


@attrs.frozen(kw_only=True)
class Release:
    """A published set: its size, how it lies on disk, and where it is had."""

    title: str
    classes: int
    train: int
    validation: int
    doubted: tuple[str, ...] = ()
    """Of "train" and "validation", the counts that are not taken from its publisher; another one is only warned of."""
    folder: str
    """Folder that it is looked for in below `root`; where that is missing, `root` is taken for it."""
    images: tuple[str, str]
    """Folders, below that, which the paths of training and validation lists start from."""
    layout: str
    source: str


@attrs.define(eq=False, kw_only=True)
class PublishedSet(ListOptions, ABC):
    """A published set in its own layout or by lists, checked against its published size."""

    role = "data"
    release: ClassVar[Release]

    check_counts: bool = True
    """Whether classes and images must be as many as were published; false: take what there is."""

    @abstractmethod
    def training_files(self, folder: Path) -> LabelledFiles:
        """The training images of the set in `folder`."""

    @abstractmethod
    def validation_files(self, folder: Path, train: LabelledFiles) -> LabelledFiles:
        """The validation images of the set in `folder`."""

    @hookimpl
    def build_data(self) -> Data:
        """Both splits, for workers. DataError where files are missing or at fault, or counts are not as published."""
        root = data_path(self.root)
        folder = root / self.release.folder if os.path.isdir(root / self.release.folder) else root
        first, second = (folder / name for name in self.release.images)
        train = self.listed_training(first) if self.train_list else self.training_files(folder)
        validation = (
            self.listed_validation(second, train.num_classes)
            if self.validation_list
            else self.validation_files(folder, train)
        )
        if train.classes and validation.classes:
            check_same_classes(train, validation)
        elif validation.num_classes > train.num_classes:
            raise DataError(
                f"{self.release.title} in {found(root)} has {train.num_classes} classes in training and "
                f"{validation.num_classes} in validation; both need the same"
            )
        if self.check_counts:
            self._check_counts(train, validation)
        return self.file_data(train, validation)

    def need(self, path: Path) -> Path:
        """The path of a file or folder that is there. DataError says what is expected and where it is had."""
        if not (os.path.isfile(path) or os.path.isdir(path)):
            raise DataError(
                f"{self.release.title} is missing or incomplete: {found(path)}; expected {self.release.layout}, in "
                f"data.root or its folder {self.release.folder}; it is had as {self.release.source}; set data.root to "
                "where it is, or data.train_list and data.validation_list to lists of it"
            )
        return path

    def class_folders(self, folder: Path, name: str, other: str) -> LabelledFiles:
        """The split in `folder`/`name` by class folders, as image_folder reads it; links into `other` are refused."""
        return scan_class_folders(self.need(folder / name), self.on_corrupt, [folder / other])

    def _check_counts(self, train: LabelledFiles, validation: LabelledFiles) -> None:
        there = {
            "classes": max(train.num_classes, validation.num_classes),
            "train": len(train),
            "validation": len(validation),
        }
        words = {"classes": "classes", "train": "training images", "validation": "validation images"}
        wrong = {key: getattr(self.release, key) for key in words if there[key] != getattr(self.release, key)}
        told = ", ".join(f"{there[key]:,} {words[key]} (expected {number:,})" for key, number in wrong.items())
        if not wrong.keys() <= set(self.release.doubted):
            raise DataError(
                f"{self.release.title} in {found(self.root)} has {told}; complete it, or set data.check_counts = false "
                "to train on what there is"
            )
        if wrong:
            logger.warning("%s in %s has %s", self.release.title, found(self.root), told)
