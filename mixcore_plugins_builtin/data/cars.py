"""Stanford Cars, in torchvision's layout or by class folders."""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import numpy as np

from mixcore.api import DataError
from mixcore_plugins_builtin.data.fine_grained import FineGrained
from mixcore_plugins_builtin.data.labelled import LabelledFiles
from mixcore_plugins_builtin.data.published import Release
from mixcore_plugins_builtin.data.samples import files_of_samples

__all__ = ["Cars"]


@attrs.define(eq=False, kw_only=True)
class Cars(FineGrained):
    """Stanford Cars: 196 makes and models, by class folders or in torchvision's layout.

    The latter needs scipy: pip install "mixcore[cars]".
    """

    release = Release(
        title="Stanford Cars",
        classes=196,
        train=8_144,
        validation=8_041,
        doubted=("train", "validation"),
        folder="stanford_cars",
        images=("cars_train", "cars_test"),
        layout="cars_train/*.jpg and cars_test/*.jpg with devkit/cars_train_annos.mat and "
        "cars_test_annos_withlabels.mat, or train/<class>/*.jpg and test/<class>/*.jpg",
        source="the Cars data set of Stanford's AI laboratory, whose page no longer offers it (look for a mirror)",
    )

    def training_files(self, folder: Path) -> LabelledFiles:
        """By the annotations, or by class folders where there is no devkit."""
        if _by_folders(folder):
            return self.class_folders(folder, "train", "test")
        return self._annotated(folder, "cars_train", folder / "devkit" / "cars_train_annos.mat", None)

    def validation_files(self, folder: Path, train: LabelledFiles) -> LabelledFiles:
        """The test images, in the same layout."""
        if _by_folders(folder):
            return self.class_folders(folder, "test", "train")
        name = "cars_test_annos_withlabels.mat"
        inside = folder / "devkit" / name
        annotations = inside if os.path.exists(inside) else folder / name
        return self._annotated(folder, "cars_test", annotations, train.num_classes)

    def _annotated(self, folder: Path, images: str, annotations: Path, num_classes: int | None) -> LabelledFiles:
        """A label is the class number less 1."""
        samples = list(_samples(self.need(annotations)))
        split = files_of_samples(
            self.need(folder / images), samples, annotations, self.on_corrupt, num_classes=num_classes
        )
        meta = folder / "devkit" / "cars_meta.mat"
        names = tuple(map(str, _matlab(meta, "class_names"))) if os.path.exists(meta) else ()
        return attrs.evolve(split, classes=names if len(names) == split.num_classes else None)


def _by_folders(folder: Path) -> bool:
    return os.path.isdir(folder / "train") and not os.path.isdir(folder / "devkit")


def _samples(path: Path) -> Iterator[tuple[str, int]]:
    annotations = _matlab(path, "annotations")
    lacking = {"fname", "class"} - set(annotations.dtype.names or ())
    if lacking:
        raise DataError(
            f"the annotations of {path.absolute()} have no {' and no '.join(sorted(lacking))}; expected file names and "
            "class numbers (those of the test images are in cars_test_annos_withlabels.mat)"
        )
    for one in annotations:
        try:
            yield str(one["fname"]), int(one["class"]) - 1
        except (TypeError, ValueError) as error:
            raise DataError(
                f"{path.absolute()} gives {one['fname']!s} the class {one['class']!s}; expected a number from 1"
            ) from error


def _matlab(path: Path, name: str) -> np.ndarray[Any, Any]:
    """A variable of a MATLAB file, one-dimensional. Raises DataError without scipy or where the file is damaged."""
    try:
        from scipy.io import loadmat
        from scipy.io.matlab import MatReadError
    except ImportError as error:
        raise DataError(
            f'{path.absolute()} is read by scipy, which is not installed; type pip install "mixcore[cars]", or keep '
            "the images as train/<class>/ and test/<class>/"
        ) from error
    try:
        return np.atleast_1d(loadmat(str(path), squeeze_me=True)[name])
    except (OSError, ValueError, TypeError, LookupError, NotImplementedError, zlib.error, MatReadError) as error:
        raise DataError(f"{path.absolute()} cannot be read as a MATLAB file with {name!r} ({error})") from error
