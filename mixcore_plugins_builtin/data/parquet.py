"""Image sets in Parquet files, in the layout of the Hugging Face hub."""

from __future__ import annotations

from pathlib import Path

import attrs
from attrs.validators import ge, in_, optional
from torch import Tensor

from mixcore.api import PLACE, Data, DataError, hookimpl
from mixcore_plugins_builtin.data.cache import cached
from mixcore_plugins_builtin.data.options import OnCorrupt, ResidentOptions, found
from mixcore_plugins_builtin.data.parquet_files import ParquetSplit, open_split

__all__ = ["Parquet"]


@attrs.define(eq=False, kw_only=True)
class Parquet(ResidentOptions):
    """Images in Parquet files: a column of struct{bytes, path} and a column of integer labels.

    All images have one size and live on the device as uint8 [n,3,H,W]; they are decoded at the start of a run, or
    once where `cache` names a folder. Needs pyarrow: pip install "mixcore[parquet]".
    """

    role = "data"

    root: str = attrs.field(default="data", metadata=PLACE)
    """Folder that holds the files; the patterns below are relative to it."""
    train: str = "train-*.parquet"
    """Pattern of the training files; `**/` reaches folders below."""
    validation: str = "{test,validation}-*.parquet"
    """Pattern of the validation files; of words in braces, the first that matches any file."""
    image_column: str = ""
    """Column of the images; empty: `image` or `img`, whichever there is."""
    label_column: str = ""
    """Column of the labels; empty: `fine_label` or `label`, whichever there is."""
    num_classes: int | None = attrs.field(default=None, validator=optional(ge(2)))
    """Classes; where not given, the class names in the files' metadata, or else the highest training label plus 1."""
    cache: str = attrs.field(default="", metadata=PLACE)
    """Folder for the decoded images; empty: none. Where it cannot be written, the run goes on without."""
    on_corrupt: OnCorrupt = attrs.field(default="refuse", validator=in_(("refuse", "skip")))
    """An image that cannot be decoded: "refuse" stops, "skip" leaves it out and says so."""

    @hookimpl
    def build_data(self) -> Data:
        """Both splits, decoded. DataError where files, columns or pyarrow are missing."""
        train, validation = (
            open_split(self._files(pattern), self.image_column, self.label_column)
            for pattern in (self.train, self.validation)
        )
        images, labels = self._decoded(train, "the training set")
        num_classes = self.num_classes or train.class_names or int(labels.max()) + 1
        return self.resident_data((images, labels), self._decoded(validation, "the validation set"), num_classes)

    def _files(self, pattern: str) -> list[Path]:
        root = Path(self.root).expanduser()
        for choice in _choices(pattern) if root.is_dir() else ():
            if files := sorted(root.glob(choice)):
                return files
        there = sorted(path.name for path in root.glob("*.parquet"))[:5] if root.is_dir() else []
        raise DataError(
            f"no file {pattern} in {found(root)}{', which has ' if there else ''}{', '.join(there)}; expected Parquet "
            "files as the Hugging Face hub keeps them, such as train-00000-of-00001.parquet and "
            "test-00000-of-00001.parquet; set data.root to their folder, or data.train and data.validation to "
            "patterns that match"
        )

    def _decoded(self, split: ParquetSplit, where: str) -> tuple[Tensor, Tensor]:
        settings = (split.image_column, split.label_column, self.on_corrupt)
        return cached(self.cache, split.files, settings, lambda: split.decode(where, self.on_corrupt))


def _choices(pattern: str) -> list[str]:
    """The patterns that `before{a,b}after` stands for, in order."""
    before, brace, rest = pattern.partition("{")
    words, closed, after = rest.partition("}")
    return [before + word + after for word in words.split(",")] if brace and closed else [pattern]
