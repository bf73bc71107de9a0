"""Image folders: one folder per class."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Sequence
from pathlib import Path

import attrs
import numpy as np
from numpy.typing import NDArray

from mixcore.api import DataError
from mixcore_plugins_builtin.data.options import OnCorrupt, found
from mixcore_plugins_builtin.data.walk import class_files, is_folder, leads_into

__all__ = ["EXTENSIONS", "ClassFolders", "scan_class_folders", "scan_splits"]

logger = logging.getLogger("mixcore")

NAMED = 5
"""Files or classes that a message names."""
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

    def fingerprint(self) -> str:
        """Hash of each file's class, path below `folder` and size in bytes; 0 for one that is gone."""
        total = hashlib.sha256("\n".join(self.classes).encode("utf-8", "surrogateescape"))
        for index, name in enumerate(self.files):
            total.update(b"%d %d %s\n" % (self.labels[index], _size(self.path(index)), bytes(name)))
        return total.hexdigest()


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def scan_class_folders(folder: Path, on_corrupt: OnCorrupt = "refuse", others: Sequence[Path] = ()) -> ClassFolders:
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
            f"{_some(empty)} in {folder.absolute()} hold{'s' if len(empty) == 1 else ''} no image; {layout}; "
            "add images or remove the folder"
        )
    if irregular and on_corrupt == "refuse":
        raise DataError(_irregular(folder, irregular))
    if left:
        logger.warning(
            "links to folders are not followed where they lead to other classes: %s in %s",
            _some(left),
            folder.absolute(),
        )
    return ClassFolders(folder, classes, np.array(files, dtype=np.bytes_), np.array(labels, dtype=np.int64))


def _classes(folder: Path, splits: Sequence[Path]) -> tuple[str, ...]:
    """Names of the class folders. Raises DataError for a link that would bring in one class as another."""
    with os.scandir(folder) as listed:
        entries = [entry for entry in listed if not entry.name.startswith(".") and is_folder(entry)]
    wrong = [e.name for e in entries if e.is_symlink() and leads_into(Path(e.path).resolve(), splits)]
    if wrong:
        one = len(wrong) == 1
        raise DataError(
            f"{_some(sorted(wrong))} in {folder.absolute()} lead{'s' if one else ''} to other classes; the same "
            f"images would have two labels; remove the link{'' if one else 's'}"
        )
    return tuple(sorted(entry.name for entry in entries))


def _irregular(folder: Path, files: list[tuple[str, str]]) -> str:
    lines = [f"{(folder / path).absolute()}: {what}" for path, what in files[:NAMED]]
    more = [f"and {len(files) - NAMED} more"] if len(files) > NAMED else []
    return "\n  ".join(
        (
            f"{len(files)} image{'' if len(files) == 1 else 's'} in {folder.absolute()} cannot be read; replace or "
            'remove, or set data.on_corrupt = "skip" to go on without:',
            *lines,
            *more,
        )
    )


def scan_splits(
    root: Path, train: str, validation: str, on_corrupt: OnCorrupt = "refuse"
) -> tuple[ClassFolders, ClassFolders]:
    """Both splits below `root`. Raises DataError where one is missing, has an empty class, or the classes differ."""
    folders = root / train, root / validation
    splits = (
        scan_class_folders(folders[0], on_corrupt, folders[1:]),
        scan_class_folders(folders[1], on_corrupt, folders[:1]),
    )
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


def _some(names: list[str], most: int = NAMED) -> str:
    quoted = ", ".join(repr(name) for name in names[:most])
    return quoted if len(names) <= most else f"{quoted} and {len(names) - most} more"
