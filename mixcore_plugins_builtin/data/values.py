"""Any set of image files whose labels are numbers: ages, angles, positions."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import attrs

from mixcore.api import PLACE, Data, DataError, hookimpl
from mixcore_plugins_builtin.data.file_options import FileOptions
from mixcore_plugins_builtin.data.labelled import LabelledFiles, some
from mixcore_plugins_builtin.data.options import data_path, found, increasing_shares, probability
from mixcore_plugins_builtin.data.samples import files_of_values
from mixcore_plugins_builtin.data.value_table import Columns, ValueTable, read_values

__all__ = ["Values"]

RESERVED = ("train", "val")
"""Names of the evaluation sets that every set of files has."""


@attrs.define(eq=False, kw_only=True)
class Values(FileOptions):
    """Any set of image files with one number or several each, from a CSV file: ages, angles, positions.

    The file is a table with a header (columns of paths, of values and, where it describes all splits, of the split), or
    a list with a path and a number a line. Two files, one per split, or one with a column of splits; its further splits
    are evaluation sets by their names. AgeDB and IMDB-WIKI are had in both forms.
    """

    role = "data"

    root: str = attrs.field(default="data", metadata=PLACE)
    """Folder of the tables."""
    train_list: str = "values.csv"
    """Table of the training images, or of all splits, below `root`."""
    validation_list: str = ""
    """Table of the validation images below `root`; empty: `train_list` has a column that says the split."""
    images: str = attrs.field(default="", metadata=PLACE)
    """Folder below `root` that paths start from; empty: `root`."""
    path_column: str = "path"
    """Column of the paths; a first line without it is no header, but a path and a number as all others."""
    columns: tuple[str, ...] = ()
    """Columns of the values to predict, in this order; empty: all but those of path and split."""
    split_column: str = "split"
    """Column of the splits, read where there is no `validation_list`."""
    train_split: str = "train"
    """What that column has for training images."""
    validation_split: str = "val"
    """What that column has for validation images."""
    scale: tuple[float, float] = attrs.field(default=(0.5, 1.0), validator=increasing_shares)
    """Share of the image's area that the random crop takes, from and to, in (0,1]."""
    flip: float = attrs.field(default=0.0, validator=probability)
    """Probability of the left-right mirror image, in [0,1]; 0 unless a mirror image has the same values."""

    @hookimpl
    def build_data(self) -> Data:
        """The splits, for workers. DataError where a table or an image is missing, or a value is no number."""
        train = self._table(self.train_list, "train_list")
        if self.validation_list:
            validation = self._table(self.validation_list, "validation_list")
            if validation.names != train.names:
                raise DataError(
                    f"the values of {self.train_list} are {some(train.names)}, those of {self.validation_list} "
                    f"{some(validation.names)}; both need the same columns, or data.columns names those to predict"
                )
            return self.file_data(
                self._files(train, train.samples, self.train_list),
                self._files(validation, validation.samples, self.validation_list),
            )
        return self._by_splits(train)

    def _by_splits(self, table: ValueTable) -> Data:
        path = self._path(self.train_list)
        if table.splits is None:
            raise DataError(
                f"{path.absolute()} has no column {self.split_column!r}, so it describes one split; set "
                "data.validation_list to the table of the other, or data.split_column to the column of splits"
            )
        there = tuple(dict.fromkeys(table.splits))
        missing = [split for split in (self.train_split, self.validation_split) if split not in there]
        if missing:
            raise DataError(
                f"the column {self.split_column!r} of {path.absolute()} has {some(there, 10)} and no {some(missing)}; "
                "set data.train_split and data.validation_split to two of these"
            )
        files = {split: self._files(table, table.of_split(split), self.train_list) for split in there}
        own = (files.pop(self.train_split), files.pop(self.validation_split))
        return self.file_data(*own, {split: one for split, one in files.items() if split and split not in RESERVED})

    def _path(self, name: str) -> Path:
        return data_path(self.root) / data_path(name)

    def _table(self, name: str, option: str) -> ValueTable:
        path = self._path(name)
        if not os.path.isfile(path):
            raise DataError(
                f"no table at {found(path)}; expected a CSV file with a header (path, the values, and split where it "
                f'describes all splits), or lines such as "01/0001.jpg,35"; set data.root to the folder that it lies '
                f"in, and data.{option} to its path below that"
            )
        return read_values(path, Columns(path=self.path_column, split=self.split_column, values=self.columns))

    def _files(self, table: ValueTable, samples: Sequence[tuple[str, tuple[float, ...]]], name: str) -> LabelledFiles:
        folder = data_path(self.root) / data_path(self.images)
        if not os.path.isdir(folder):
            raise DataError(
                f"no folder at {found(folder)}; expected the images that {self._path(name).absolute()} names, such as "
                f"{samples[0][0]!r}; set data.images to the folder below data.root that its paths start from"
            )
        return files_of_values(folder, samples, self._path(name), self.on_corrupt, names=table.names)
