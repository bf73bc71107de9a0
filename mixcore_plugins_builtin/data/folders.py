"""Image folders: one folder per class."""

from __future__ import annotations

import os
from pathlib import Path

import attrs
import numpy as np
from numpy.typing import NDArray

from mixcore.api import DataError
from mixcore_plugins_builtin.data.options import found

__all__ = ["EXTENSIONS", "ClassFolders", "scan_class_folders", "scan_splits"]

EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp", ".ppm", ".pgm", ".bmp", ".tif", ".tiff")


@attrs.frozen(eq=False)
class ClassFolders:
    """Images of one split. `files` are paths below `folder`, sorted; a label is the rank of its class folder's name.

    Files are kept as one array of bytes: worker processes would copy a list of a million strings, by touching it.
    """

    folder: Path
    classes: tuple[str, ...]
    files: NDArray[np.bytes_]
    labels: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.files)

    def path(self, index: int) -> Path:
        """Path of one image."""
        return self.folder / os.fsdecode(bytes(self.files[index]))


def scan_class_folders(folder: Path) -> ClassFolders:
    """Find the images below `folder`/<class>/, at any depth. Raises DataError for a missing folder or empty class."""
    layout = f"expected {folder}/<class>/<image>, with images ending in {', '.join(EXTENSIONS)}"
    if not folder.is_dir():
        raise DataError(f"no image folder at {found(folder)}; {layout}; set data.root to the folder above it")
    classes = tuple(sorted(entry.name for entry in os.scandir(folder) if entry.is_dir()))
    if not classes:
        raise DataError(f"the image folder {found(folder)} has no class folders; {layout}")
    files: list[bytes] = []
    labels: list[int] = []
    empty: list[str] = []
    for label, name in enumerate(classes):
        own = _images_below(folder, name)
        if not own:
            empty.append(name)
        files += own
        labels += [label] * len(own)
    if empty:
        raise DataError(
            f"{_some(empty)} in {folder.absolute()} hold{'s' if len(empty) == 1 else ''} no image; {layout}; "
            "add images or remove the folder"
        )
    return ClassFolders(folder, classes, np.array(files, dtype=np.bytes_), np.array(labels, dtype=np.int64))


def scan_splits(root: Path, train: str, validation: str) -> tuple[ClassFolders, ClassFolders]:
    """Both splits below `root`. Raises DataError where one is missing, has an empty class, or the classes differ."""
    splits = scan_class_folders(root / train), scan_class_folders(root / validation)
    first, second = (set(split.classes) for split in splits)
    if first != second:
        differences = [
            f"only in {split.folder.absolute()}: {_some(sorted(only))}"
            for split, only in zip(splits, (first - second, second - first), strict=True)
            if only
        ]
        raise DataError(
            f"the class folders of training ({len(first)}) and validation ({len(second)}) differ; "
            f"{'; '.join(differences)}; both need the same folders, because a label is the rank of its folder's name"
        )
    return splits


def _images_below(folder: Path, name: str) -> list[bytes]:
    own = [
        os.fsencode(os.path.relpath(os.path.join(parent, file), folder))
        for parent, _, files in os.walk(folder / name, followlinks=True)
        for file in files
        if file.lower().endswith(EXTENSIONS)
    ]
    return sorted(own)


def _some(names: list[str], most: int = 5) -> str:
    quoted = ", ".join(repr(name) for name in names[:most])
    return quoted if len(names) <= most else f"{quoted} and {len(names) - most} more"
