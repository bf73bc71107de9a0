"""From pairs of a path and a label, as lists and annotations give them, to the checked files of a split."""

from __future__ import annotations

import os
import posixpath
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from mixcore.api import DataError
from mixcore_plugins_builtin.data.decode import irregular
from mixcore_plugins_builtin.data.labelled import LabelledFiles, irregular_files, some
from mixcore_plugins_builtin.data.options import OnCorrupt

__all__ = ["files_of_samples", "files_of_values"]

_Label = TypeVar("_Label")


def files_of_samples(
    folder: Path,
    samples: Iterable[tuple[str, int]],
    source: Path,
    on_corrupt: OnCorrupt,
    *,
    num_classes: int | None = None,
    classes: tuple[str, ...] | None = None,
) -> LabelledFiles:
    """The images of (path below `folder`, label) pairs that were read from `source`, which messages name.

    Without `num_classes` the labels themselves say how many there are: each integer from 0 must occur. Raises DataError
    for labels that are others, for paths that leave the folder or have two labels, for no sample at all, and, unless
    `on_corrupt` is "skip", for images that are missing or no regular files.
    """
    paths, labels = _paths_and_labels(folder, samples, source)
    array = np.array(labels, dtype=np.int64)
    counted = _contiguous(array, source) if num_classes is None else _below(array, num_classes, source)
    files = _checked_files(folder, paths, source, on_corrupt)
    return LabelledFiles(folder=folder, files=files, labels=array, num_classes=counted, classes=classes)


def files_of_values(
    folder: Path,
    samples: Iterable[tuple[str, tuple[float, ...]]],
    source: Path,
    on_corrupt: OnCorrupt,
    *,
    names: tuple[str, ...],
) -> LabelledFiles:
    """The images of (path below `folder`, values) pairs that were read from `source`; the values are called `names`.

    Raises DataError as :func:`files_of_samples` does, but for what is said of classes.
    """
    paths, values = _paths_and_labels(folder, samples, source)
    files = _checked_files(folder, paths, source, on_corrupt)
    array = np.array(values, dtype=np.float32)
    return LabelledFiles(folder=folder, files=files, labels=array, num_classes=len(names), classes=names)


def _paths_and_labels(
    folder: Path, samples: Iterable[tuple[str, _Label]], source: Path
) -> tuple[list[str], list[_Label]]:
    label_of: dict[str, _Label] = {}
    paths: list[str] = []
    labels: list[_Label] = []
    for given, label in samples:
        path = _inside(given, folder, source)
        if label_of.setdefault(path, label) != label:
            raise DataError(
                f"{source.absolute()} gives {given!r} the labels {label_of[path]} and {label}; leave one of them"
            )
        paths.append(path)
        labels.append(label)
    if not paths:
        raise DataError(f"{source.absolute()} names no image of this split")
    return paths, labels


def _checked_files(folder: Path, paths: Sequence[str], source: Path, on_corrupt: OnCorrupt) -> NDArray[np.bytes_]:
    if on_corrupt == "refuse":
        _refuse_irregular(folder, paths, source)
    return np.array([os.fsencode(path) for path in paths], dtype=np.bytes_)


def _inside(given: str, folder: Path, source: Path) -> str:
    """The path without `.` and `..`. Raises DataError for one that leaves the folder."""
    path = posixpath.normpath(given)
    if posixpath.isabs(path) or path in (".", "..") or path.startswith("../") or not _is_name(path):
        raise DataError(
            f"{source.absolute()} names {given!r}, which does not lie in {folder.absolute()}; paths are relative to "
            "that folder and stay in it"
        )
    return path


def _is_name(path: str) -> bool:
    """Whether the system can have a file of that name."""
    try:
        return b"\0" not in os.fsencode(path)
    except UnicodeEncodeError:
        return False


def _contiguous(labels: NDArray[np.int64], source: Path) -> int:
    there = np.unique(labels)
    expected = np.arange(len(there))
    if not np.array_equal(there, expected):
        missing = np.setdiff1d(expected, there)
        raise DataError(
            f"the labels of {source.absolute()} lie in {there[0]}..{there[-1]}, without {some(missing.tolist())}; "
            "expected every integer from 0 to the number of classes less 1"
        )
    return len(there)


def _below(labels: NDArray[np.int64], num_classes: int, source: Path) -> int:
    wrong = np.unique(labels[(labels < 0) | (labels >= num_classes)])
    if len(wrong):
        raise DataError(
            f"{source.absolute()} has the label{'' if len(wrong) == 1 else 's'} {some(wrong.tolist())}; training has "
            f"{num_classes} classes, so labels lie in 0..{num_classes - 1}"
        )
    return num_classes


def _refuse_irregular(folder: Path, paths: Sequence[str], source: Path) -> None:
    wrong = [(path, what) for path in paths if (what := _what_is_wrong(os.path.join(folder, path)))]
    if wrong:
        raise DataError(irregular_files(folder, wrong, f"that {source.absolute()} names"))


def _what_is_wrong(path: str) -> str:
    try:
        return irregular(os.stat(path).st_mode)
    except OSError as error:
        return error.strerror or str(error)
