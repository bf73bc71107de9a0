"""FGVC-Aircraft, by the text files of its archive."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import attrs
from torchvision import datasets

from mixcore.api import PLACE, Data, DataError, hookimpl
from mixcore_plugins_builtin.data.fine_grained import FineGrained
from mixcore_plugins_builtin.data.labelled import LabelledFiles
from mixcore_plugins_builtin.data.options import data_path
from mixcore_plugins_builtin.data.published import Release
from mixcore_plugins_builtin.data.samples import files_of_samples
from mixcore_plugins_builtin.data.text_files import numbered_lines, read_pairs
from mixcore_plugins_builtin.data.torchvision_sets import open_torchvision

__all__ = ["Aircraft"]


@attrs.define(eq=False, kw_only=True)
class Aircraft(FineGrained):
    """FGVC-Aircraft: 100 variants of aircraft, in torchvision's layout; trained on its `train` and `val` together."""

    release = Release(
        title="FGVC-Aircraft",
        classes=100,
        train=6_667,
        validation=3_333,
        doubted=("train", "validation"),
        folder="fgvc-aircraft-2013b",
        images=("data/images", "data/images"),
        layout="data/images/*.jpg with data/variants.txt, data/images_variant_trainval.txt (or _train and _val) and "
        "data/images_variant_test.txt",
        source="the archive fgvc-aircraft-2013b of Oxford's Visual Geometry Group, which data.download = true fetches",
    )

    download: bool = attrs.field(default=False, metadata=PLACE)
    """Let torchvision fetch the set into `root` where it is missing."""

    @hookimpl
    def build_data(self) -> Data:
        """Both splits, for workers. DataError as for any published set, and where a download fails."""
        root, release = data_path(self.root), self.release
        if self.download and not os.path.exists(root / "data" / "variants.txt"):
            open_torchvision(datasets.FGVCAircraft, release.title, root, root / release.folder, release.layout, True)
        return super().build_data()

    def training_files(self, folder: Path) -> LabelledFiles:
        """The images of `trainval`, or of `train` and `val`."""
        both = folder / "data" / "images_variant_trainval.txt"
        parts = [folder / "data" / f"images_variant_{part}.txt" for part in ("train", "val")]
        return self._split(folder, parts if not os.path.exists(both) and os.path.exists(parts[0]) else [both])

    def validation_files(self, folder: Path, train: LabelledFiles) -> LabelledFiles:  # noqa: ARG002
        """The images of `test`."""
        return self._split(folder, [folder / "data" / "images_variant_test.txt"])

    def _split(self, folder: Path, files: list[Path]) -> LabelledFiles:
        """A label is the line of its variant in variants.txt, from 0."""
        variants = self.need(folder / "data" / "variants.txt")
        classes = tuple(line for _, line in numbered_lines(variants))
        samples = [sample for file in files for sample in _of_variants(self.need(file), classes, variants)]
        return files_of_samples(
            self.need(folder / "data" / "images"),
            samples,
            files[0],
            self.on_corrupt,
            num_classes=len(classes),
            classes=classes,
        )


def _of_variants(path: Path, classes: tuple[str, ...], variants: Path) -> Iterator[tuple[str, int]]:
    label_of = {name: label for label, name in enumerate(classes)}
    for image, variant in read_pairs(path).items():
        if variant not in label_of:
            raise DataError(
                f"{path.absolute()} gives {image} the variant {variant!r}, which {variants.absolute()} does not name"
            )
        yield f"{image}.jpg", label_of[variant]
