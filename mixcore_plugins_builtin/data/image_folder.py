"""Image folders of any size, read by worker processes."""

from __future__ import annotations

import attrs

from mixcore.api import PLACE, Data, hookimpl
from mixcore_plugins_builtin.data.file_options import FileOptions
from mixcore_plugins_builtin.data.folders import scan_splits
from mixcore_plugins_builtin.data.options import data_path

__all__ = ["ImageFolder"]


@attrs.define(eq=False, kw_only=True)
class ImageFolder(FileOptions):
    """Any set kept as root/train/<class>/<image> and root/val/<class>/<image>; a label is the rank of its folder name.

    Files are opened in RGB. Training images are cropped at random, validation images at the centre; so are those of the
    evaluation set "train", which are the training images again.
    """

    role = "data"

    root: str = attrs.field(default="data", metadata=PLACE)
    """Folder that holds the two splits."""
    train: str = "train"
    """Folder of the training split below `root`."""
    validation: str = "val"
    """Folder of the validation split below `root`."""

    @hookimpl
    def build_data(self) -> Data:
        """Both splits, for workers. DataError where a folder is missing or empty, the classes differ, or maps lack."""
        return self.file_data(*scan_splits(data_path(self.root), self.train, self.validation, self.on_corrupt))
