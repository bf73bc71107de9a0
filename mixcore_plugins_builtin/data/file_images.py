"""A split of image files as a data set that worker processes read."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

from PIL.Image import Image
from torch import Tensor
from torch.utils.data import Dataset

from mixcore.api import UnreadableSampleError
from mixcore_plugins_builtin.data.decode import open_rgb
from mixcore_plugins_builtin.data.folder_maps import MapFiles
from mixcore_plugins_builtin.data.folder_transforms import TrainingTransform, Transform
from mixcore_plugins_builtin.data.labelled import LabelledFiles
from mixcore_plugins_builtin.data.options import OnCorrupt

__all__ = ["FileImages", "MappedImages"]

MOST_ASPECT = 1000
"""Long over short side of an image; a line one pixel high would be resized to gigabytes."""


class FileImages(Dataset[Any]):
    """Images of one split, opened in RGB and transformed. Raises UnreadableSampleError for a corrupt file."""

    def __init__(self, split: LabelledFiles, transform: Transform, on_corrupt: OnCorrupt) -> None:
        self.split, self.transform, self.on_corrupt = split, transform, on_corrupt

    def __len__(self) -> int:
        return len(self.split)

    def fingerprint(self) -> str:
        """Hash of names, labels and sizes of all files: another image of the same size under a name is not told."""
        return self.split.fingerprint()

    def __getitem__(self, index: int) -> Any:
        """Image uint8 or float32 [3,H,W] and label."""
        return self.transform(self.opened(index)), self.label(index)

    def label(self, index: int) -> int | Tensor:
        """Of one image the class, from 0, or its values."""
        return self.split.label(index)

    def opened(self, index: int) -> Image:
        """The image in RGB, as large as its file has it."""
        path = self.split.path(index)
        image: Image = open_rgb(path, str(path), self.on_corrupt)
        if max(image.size) > MOST_ASPECT * min(image.size):
            raise UnreadableSampleError(
                f"{path} is {image.width}x{image.height}; at most {MOST_ASPECT} times as long as short can be resized",
                skip=self.on_corrupt == "skip",
            )
        return image


class MappedImages(FileImages):
    """The same with a map of each image, or several, cropped and mirrored as it is."""

    def __init__(
        self, split: LabelledFiles, transform: TrainingTransform, on_corrupt: OnCorrupt, maps: Sequence[MapFiles]
    ) -> None:
        super().__init__(split, transform, on_corrupt)
        self.together, self.maps = transform.with_maps, maps

    def fingerprint(self) -> str:
        """Hash of names and sizes of the maps too."""
        told = (super().fingerprint(), *(one.fingerprint() for one in self.maps))
        return hashlib.sha256("\n".join(told).encode()).hexdigest()

    def __getitem__(self, index: int) -> Any:
        """Image, label, and maps uint8 [c,H,W] by name."""
        image, path = self.opened(index), self.split.path(index)
        maps = {one.name: one.read(index, path, image.size, self.on_corrupt) for one in self.maps}
        moved, with_it = self.together(image, maps)
        return moved, self.label(index), with_it
