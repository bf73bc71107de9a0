"""Any set of image files that two lists describe."""

from __future__ import annotations

import attrs

from mixcore.api import PLACE, Data, hookimpl
from mixcore_plugins_builtin.data.list_options import ListOptions
from mixcore_plugins_builtin.data.options import data_path

__all__ = ["ImageList"]


@attrs.define(eq=False, kw_only=True)
class ImageList(ListOptions):
    """Any set of image files that list files describe: a path and an integer label from 0 a line.

    The separator is a comma, semicolon or space, as in the first line; a path may have more of them.
    """

    role = "data"

    root: str = attrs.field(default="data", metadata=PLACE)
    """Folder of the lists; the paths in them start from it where `train_images` and `validation_images` are empty."""
    train_list: str = "train.txt"
    """List of the training images below `root`, a path and a label a line."""
    validation_list: str = "val.txt"
    """List of the validation images below `root`."""

    @hookimpl
    def build_data(self) -> Data:
        """Both splits, for workers. DataError where a list or an image is missing or a label is none."""
        root = data_path(self.root)
        train = self.listed_training(root)
        return self.file_data(train, self.listed_validation(root, train.num_classes))
