"""Maps of image files: folders that mirror the training split, a file per image."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

import attrs
import numpy as np
import torch
from numpy.typing import NDArray
from PIL.Image import Image
from torch import Tensor

from mixcore.api import DataError, UnreadableSampleError
from mixcore_plugins_builtin.data.decode import open_map
from mixcore_plugins_builtin.data.folders import EXTENSIONS
from mixcore_plugins_builtin.data.labelled import LabelledFiles
from mixcore_plugins_builtin.data.options import OnCorrupt, data_path, found

__all__ = ["MapFiles", "scan_map_folders"]

NAMED = 5
"""Images that a message names."""


@attrs.frozen(eq=False)
class MapFiles:
    """The files of one map in the order of the images; `files` are paths below `folder`, empty where there is none."""

    name: str
    folder: Path
    files: NDArray[np.bytes_]

    def read(self, index: int, image: Path, size: tuple[int, int], on_corrupt: OnCorrupt) -> Tensor:
        """The map of image `index`, uint8 [1,H,W] of a grey file and [3,H,W] of any other.

        `size` is the width and height of the `image`, which messages name. Raises UnreadableSampleError for a map that
        is missing, cannot be decoded or has another size.
        """
        own = bytes(self.files[index])
        if not own:
            raise UnreadableSampleError(
                f"{image} has no map {self.name!r} in {self.folder.absolute()}", skip=on_corrupt == "skip"
            )
        path = self.folder / os.fsdecode(own)
        opened = open_map(path, on_corrupt)
        if opened.size != size:
            raise UnreadableSampleError(
                f"{path} is {opened.width}x{opened.height} and its image {image} is {size[0]}x{size[1]}; the map "
                f"{self.name!r} has the size of the image",
                skip=on_corrupt == "skip",
            )
        return _tensor(opened)

    def fingerprint(self) -> str:
        """Hash of each file's path below `folder` and size in bytes; 0 for one that is gone."""
        total = hashlib.sha256(self.name.encode())
        for own in map(bytes, self.files):
            path = self.folder / os.fsdecode(own)
            total.update(b"\n%d %s" % (path.stat().st_size if own and path.exists() else 0, own))
        return total.hexdigest()


def _tensor(image: Image) -> Tensor:
    pixels = np.frombuffer(image.tobytes(), np.uint8).reshape(image.height, image.width, len(image.getbands()))
    return torch.from_numpy(pixels.transpose(2, 0, 1).copy())


def scan_map_folders(
    folders: Mapping[str, str], images: LabelledFiles, on_corrupt: OnCorrupt = "refuse"
) -> tuple[MapFiles, ...]:
    """For each name of a map the files of its folder, by the paths of the images below theirs.

    A map has the image's path, or that path with another ending. Raises DataError for a folder that is missing, for two
    files that may both be the map of an image, and, unless `on_corrupt` is "skip", for images without a map.
    """
    return tuple(_scan(name, data_path(folder), images, on_corrupt) for name, folder in folders.items())


def _scan(name: str, folder: Path, images: LabelledFiles, on_corrupt: OnCorrupt) -> MapFiles:
    if not folder.is_dir():
        raise DataError(
            f"no folder of the map {name!r} at {found(folder)}; expected {folder}/<path of the image>, a file for each "
            f"image in {images.folder.absolute()}; set data.map_folders.{name}"
        )
    paths = [os.fsdecode(bytes(image)) for image in images.files]
    listed = _listed(folder, paths)
    files = [_file_of(path, listed, name, folder) for path in paths]
    missing = [path for path, own in zip(paths, files, strict=True) if not own]
    if missing and on_corrupt == "refuse":
        raise DataError(_missing(name, folder, images.folder, missing))
    return MapFiles(name, folder, np.array([os.fsencode(own) for own in files], dtype=np.bytes_))


def _listed(folder: Path, images: Iterable[str]) -> dict[str, list[str]]:
    """Paths in the folders that mirror those of the images, where they end as images do; by the path without ending."""
    listed: dict[str, list[str]] = {}
    for parent in {os.path.dirname(image) for image in images}:
        try:
            names = os.listdir(folder / parent)
        except (FileNotFoundError, NotADirectoryError):
            continue  # each image of it is without a map
        except OSError as error:
            raise DataError(f"the folder {(folder / parent).absolute()} cannot be read ({error.strerror})") from error
        for path in (f"{parent}/{name}" for name in names if name.lower().endswith(EXTENSIONS)):
            listed.setdefault(_stem(path), []).append(path)
    return listed


def _stem(path: str) -> str:
    return os.path.splitext(path)[0]


def _file_of(image: str, listed: Mapping[str, list[str]], name: str, folder: Path) -> str:
    """The map of the image at this path; empty where there is none."""
    candidates = listed.get(_stem(image), [])
    if image in candidates:
        return image
    if len(candidates) > 1:
        raise DataError(
            f"{' and '.join(sorted(candidates))} in {folder.absolute()} may both be the map {name!r} of {image}; "
            "leave one of them"
        )
    return candidates[0] if candidates else ""


def _missing(name: str, folder: Path, images: Path, missing: list[str]) -> str:
    more = [f"and {len(missing) - NAMED} more"] if len(missing) > NAMED else []
    return "\n  ".join(
        (
            f"{len(missing)} image{'' if len(missing) == 1 else 's'} in {images.absolute()} ha"
            f"{'s' if len(missing) == 1 else 've'} no map {name!r} in {folder.absolute()}; add the files (the path of "
            'the image, any ending of an image), or set data.on_corrupt = "skip" to go on without these images:',
            *missing[:NAMED],
            *more,
        )
    )
