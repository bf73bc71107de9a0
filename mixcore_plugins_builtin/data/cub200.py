"""CUB-200-2011, by the text files of its release."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import attrs

from mixcore.api import DataError
from mixcore_plugins_builtin.data.fine_grained import FineGrained
from mixcore_plugins_builtin.data.labelled import LabelledFiles, some
from mixcore_plugins_builtin.data.published import Release
from mixcore_plugins_builtin.data.samples import files_of_samples
from mixcore_plugins_builtin.data.text_files import integer, read_pairs

__all__ = ["Cub200"]


@attrs.define(eq=False, kw_only=True)
class Cub200(FineGrained):
    """CUB-200-2011: birds of 200 species, by the text files of the release."""

    release = Release(
        title="CUB-200-2011",
        classes=200,
        train=5_994,
        validation=5_794,
        doubted=("validation",),
        folder="CUB_200_2011",
        images=("images", "images"),
        layout="images/<class>/*.jpg with images.txt, image_class_labels.txt and train_test_split.txt",
        source="the release CUB_200_2011 of Caltech",
    )

    def training_files(self, folder: Path) -> LabelledFiles:
        """The images whose line of train_test_split.txt ends in 1."""
        return self._split(folder, "1", None)

    def validation_files(self, folder: Path, train: LabelledFiles) -> LabelledFiles:
        """Those whose line ends in 0."""
        return self._split(folder, "0", train.num_classes)

    def _split(self, folder: Path, mark: str, num_classes: int | None) -> LabelledFiles:
        paths, numbers, marks = (
            self.need(folder / name) for name in ("images.txt", "image_class_labels.txt", "train_test_split.txt")
        )
        samples = list(_of_split(paths, numbers, marks, mark))
        split = files_of_samples(
            self.need(folder / "images"), samples, numbers, self.on_corrupt, num_classes=num_classes
        )
        names = {label: path.partition("/")[0] for path, label in samples}
        known = sorted(names) == list(range(split.num_classes))
        return attrs.evolve(split, classes=tuple(names[label] for label in sorted(names)) if known else None)


def _of_split(paths: Path, numbers: Path, marks: Path, mark: str) -> Iterator[tuple[str, int]]:
    """Path and label, the class number less 1, of each image whose mark is this one; in the order of images.txt."""
    path_of, number_of, mark_of = (read_pairs(path) for path in (paths, numbers, marks))
    for file, found in ((numbers, number_of), (marks, mark_of)):
        if found.keys() != path_of.keys():
            raise DataError(
                f"{paths.absolute()} and {file.absolute()} differ in the images "
                f"{some(sorted(found.keys() ^ path_of.keys()))}; each image has one line in both; take all three files "
                "from one release"
            )
    for image, path in path_of.items():
        number = integer(number_of[image])
        if mark_of[image] not in ("0", "1") or number is None:
            raise DataError(
                f"image {image} has the class {number_of[image]!r} in {numbers.absolute()} and the mark "
                f"{mark_of[image]!r} in {marks.absolute()}; expected a number from 1, and 1 for training or 0"
            )
        if mark_of[image] == mark:
            yield path, number - 1
