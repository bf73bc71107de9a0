"""Image folders: one folder per class."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mixcore.api import DataError
from mixcore_plugins_builtin.data.labelled import LabelledFiles, irregular_files, some
from mixcore_plugins_builtin.data.options import OnCorrupt, found
from mixcore_plugins_builtin.data.walk import class_files, is_folder, leads_into

__all__ = ["EXTENSIONS", "check_same_classes", "scan_class_folders", "scan_splits"]

logger = logging.getLogger("mixcore")

EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp", ".ppm", ".pgm", ".bmp", ".tif", ".tiff")


def scan_class_folders(folder: Path, on_corrupt: OnCorrupt = "refuse", others: Sequence[Path] = ()) -> LabelledFiles:
    """Find the images below `folder`/<class>/, at any depth; walk.py says which links are followed.

    `others` are further splits, whose images links must not bring in. Raises DataError for a missing folder, an empty
    class, a class that is a link into a split, and, unless `on_corrupt` is "skip", for an image that is no regular
    file; with "skip" such a file is left for the reader to skip and count.
    """
    layout = f"expected {folder}/<class>/<image>, with images ending in {', '.join(EXTENSIONS)}"
    if not os.path.isdir(folder):
        raise DataError(f"no image folder at {found(folder)}; {layout}; set data.root to the folder above it")
    splits = [split.resolve() for split in (folder, *others)]
    classes = _classes(folder, splits)
    if not classes:
        raise DataError(f"the image folder {found(folder)} has no class folders; {layout}")
    files: list[bytes] = []
    labels: list[int] = []
    empty: list[str] = []
    irregular: list[tuple[str, str]] = []
    left: list[str] = []
    for label, name in enumerate(classes):
        own = class_files(folder, name, EXTENSIONS, splits)
        paths = [*own.files, *(path for path, _ in own.irregular)]
        files += sorted(map(os.fsencode, paths))
        labels += [label] * len(paths)
        irregular += own.irregular
        left += own.left
        if not paths:
            empty.append(name)
    if empty:
        raise DataError(
            f"{some(empty)} in {folder.absolute()} hold{'s' if len(empty) == 1 else ''} no image; {layout}; "
            "add images or remove the folder"
        )
    if irregular and on_corrupt == "refuse":
        raise DataError(irregular_files(folder, irregular, f"in {folder.absolute()}"))
    if left:
        logger.warning(
            "links to folders are not followed where they lead to other classes: %s in %s",
            some(left),
            folder.absolute(),
        )
    return LabelledFiles(
        folder=folder,
        files=np.array(files, dtype=np.bytes_),
        labels=np.array(labels, dtype=np.int64),
        num_classes=len(classes),
        classes=classes,
    )


def _classes(folder: Path, splits: Sequence[Path]) -> tuple[str, ...]:
    """Names of the class folders. Raises DataError for a link that would bring in one class as another."""
    with os.scandir(folder) as listed:
        entries = [entry for entry in listed if not entry.name.startswith(".") and is_folder(entry)]
    wrong = [e.name for e in entries if e.is_symlink() and leads_into(Path(e.path).resolve(), splits)]
    if wrong:
        one = len(wrong) == 1
        raise DataError(
            f"{some(sorted(wrong))} in {folder.absolute()} lead{'s' if one else ''} to other classes; the same "
            f"images would have two labels; remove the link{'' if one else 's'}"
        )
    return tuple(sorted(entry.name for entry in entries))


def scan_splits(
    root: Path, train: str, validation: str, on_corrupt: OnCorrupt = "refuse"
) -> tuple[LabelledFiles, LabelledFiles]:
    """Both splits below `root`. Raises DataError where one is missing, has an empty class, or the classes differ."""
    folders = root / train, root / validation
    splits = (
        scan_class_folders(folders[0], on_corrupt, folders[1:]),
        scan_class_folders(folders[1], on_corrupt, folders[:1]),
    )
    check_same_classes(*splits)
    return splits


def check_same_classes(train: LabelledFiles, validation: LabelledFiles) -> None:
    """Refuse splits whose class folders have other names: a label would mean two things. Raises DataError."""
    first, second = (set(split.classes or ()) for split in (train, validation))
    if first != second:
        differences = [
            f"only in {split.folder.absolute()}: {some(sorted(only))}"
            for split, only in ((train, first - second), (validation, second - first))
            if only
        ]
        raise DataError(
            f"the class folders of training ({len(first)}) and validation ({len(second)}) differ; "
            f"{'; '.join(differences)}; both need the same folders, because a label is the rank of its folder's name"
        )
