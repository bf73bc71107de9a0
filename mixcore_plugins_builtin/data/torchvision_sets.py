"""Fashion-MNIST and STL-10, read by torchvision and kept on the device."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any
from urllib.error import URLError

import attrs
import torch
from torchvision import datasets

from mixcore.api import PLACE, Data, DataError, all_positive, hookimpl
from mixcore_plugins_builtin.data.options import (
    MOST_SIDE,
    ResidentOptions,
    all_finite,
    between,
    class_labels,
    data_path,
    found,
)

__all__ = ["FASHION_FILES", "STL10", "FashionMNIST", "open_torchvision"]

FASHION_FILES = "train-images-idx3-ubyte, train-labels-idx1-ubyte and the two of t10k in it"
"""What Fashion-MNIST is on disk, in words."""


def open_torchvision(
    dataset: Any, title: str, root: Path, folder: Path, layout: str, download: bool, **arguments: Any
) -> Any:
    """An instance of the torchvision class, kept in `folder` below `root`.

    Raises DataError with the `layout` expected where it is missing, damaged, or cannot be downloaded.
    """
    try:
        return dataset(str(root), download=download, **arguments)
    except URLError as error:
        raise DataError(
            f"{title} could not be downloaded to {found(folder)}: {error.reason}; expected {layout}; put the files "
            "there yourself, or try again with a network connection"
        ) from error
    except (OSError, RuntimeError) as error:
        state = (
            f"is damaged or incomplete at {found(folder)} ({error})"
            if os.path.exists(folder)
            else f"is not at {found(folder)}"
        )
        raise DataError(
            f"{title} {state}; expected {layout}; set data.root to where it is, or data.download = true to let "
            "torchvision fetch it"
        ) from error


@attrs.define(eq=False, kw_only=True)
class FashionMNIST(ResidentOptions):
    """Fashion-MNIST: 10 classes of grey 28x28 images, 60,000 for training and 10,000 for validation.

    Shapes: uint8 [n,1,28,28].
    """

    role = "data"

    root: str = attrs.field(default="data", metadata=PLACE)
    """Folder that holds FashionMNIST/raw/ with the four idx files."""
    download: bool = attrs.field(default=False, metadata=PLACE)
    """Let torchvision fetch the set into `root` where it is missing."""
    crop_padding: int = attrs.field(default=2, validator=between(0, MOST_SIDE))
    """Pixels added on every side before a random crop of the original size; 0: no crop."""
    mean: tuple[float, ...] = attrs.field(default=(0.286,), validator=all_finite)
    """Subtracted from pixels in [0,1]; one number stands for all channels."""
    std: tuple[float, ...] = attrs.field(default=(0.353,), validator=all_positive)
    """Pixels are divided by this after the mean is subtracted; above 0."""

    @hookimpl
    def build_data(self) -> Data:
        """The training and the test set. DataError where they are missing."""
        root = data_path(self.root)
        raw = root / "FashionMNIST" / "raw"
        train, test = (
            open_torchvision(
                datasets.FashionMNIST, "Fashion-MNIST", root, raw, FASHION_FILES, self.download, train=train
            )
            for train in (True, False)
        )
        return self.resident_data(
            (train.data[:, None].contiguous(), class_labels(train.targets)),
            (test.data[:, None].contiguous(), class_labels(test.targets)),
            num_classes=10,
            class_names=train.classes,
        )


@attrs.define(eq=False, kw_only=True)
class STL10(ResidentOptions):
    """STL-10: 10 classes of 96x96 colour images, 5,000 for training and 8,000 for validation; no unlabelled ones.

    Shapes: uint8 [n,3,96,96].
    """

    role = "data"

    root: str = attrs.field(default="data", metadata=PLACE)
    """Folder that holds stl10_binary/."""
    download: bool = attrs.field(default=False, metadata=PLACE)
    """Let torchvision fetch the set into `root` where it is missing."""
    crop_padding: int = attrs.field(default=12, validator=between(0, MOST_SIDE))
    """Pixels added on every side before a random crop of the original size; 0: no crop."""

    @hookimpl
    def build_data(self) -> Data:
        """The training and the test set. DataError where they are missing."""
        root = data_path(self.root)
        folder = root / "stl10_binary"
        layout = "train_X.bin, train_y.bin, test_X.bin, test_y.bin in it"
        splits = [
            open_torchvision(datasets.STL10, "STL-10", root, folder, layout, self.download, split=split)
            for split in ("train", "test")
        ]
        train, test = ((torch.from_numpy(split.data), class_labels(split.labels)) for split in splits)
        names = getattr(splits[0], "classes", None)  # torchvision reads them from class_names.txt, where it is
        return self.resident_data(train, test, num_classes=10, class_names=names)
