"""Image sets in Parquet files, in the layout of the Hugging Face hub."""

from __future__ import annotations

import os
from pathlib import Path

import attrs
from attrs.validators import in_, optional
from torch import Tensor

from mixcore.api import PLACE, ConfigError, Data, DataError, hookimpl
from mixcore_plugins_builtin.data.cache import cached
from mixcore_plugins_builtin.data.decode import irregular
from mixcore_plugins_builtin.data.options import MOST_CLASSES, OnCorrupt, ResidentOptions, between, data_path, found
from mixcore_plugins_builtin.data.parquet_files import ParquetSplit, different_names, open_split

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
    num_classes: int | None = attrs.field(default=None, validator=optional(between(2, MOST_CLASSES)))
    """Classes; where not given, the class names in the files' metadata, or else the highest training label plus 1."""
    cache: str = attrs.field(default="", metadata=PLACE)
    """Folder for the decoded images; empty: none. Where it cannot be written, the run goes on without."""
    on_corrupt: OnCorrupt = attrs.field(default="refuse", validator=in_(("refuse", "skip")))
    """An image that cannot be decoded: "refuse" stops, "skip" leaves it out and says so."""

    @hookimpl
    def build_data(self) -> Data:
        """Both splits, decoded. DataError where files, columns or pyarrow are missing."""
        train, validation = (
            open_split(self._files(key, pattern), self.image_column, self.label_column)
            for key, pattern in (("train", self.train), ("validation", self.validation))
        )
        if train.class_names != validation.class_names and train.class_names and validation.class_names:
            names = {train.class_names: train.files[0], validation.class_names: validation.files[0]}
            raise DataError(different_names(names))
        images, labels = self._decoded(train, "the training set")
        num_classes = self.num_classes or len(train.class_names or ()) or int(labels.max()) + 1
        decoded = self._decoded(validation, "the validation set")
        return self.resident_data((images, labels), decoded, num_classes, train.class_names or validation.class_names)

    def _files(self, key: str, pattern: str) -> list[Path]:
        root = data_path(self.root)
        for choice in _choices(pattern) if os.path.isdir(root) else ():
            if files := _matching(root, key, choice):
                return files
        there = [path.name for path in _matching(root, key, "*.parquet")][:5] if os.path.isdir(root) else []
        raise DataError(
            f"no file {pattern} in {found(root)}{', which has ' if there else ''}{', '.join(there)}; expected Parquet "
            "files as the Hugging Face hub keeps them, such as train-00000-of-00001.parquet and "
            "test-00000-of-00001.parquet; set data.root to their folder, or data.train and data.validation to "
            "patterns that match"
        )

    def _decoded(self, split: ParquetSplit, where: str) -> tuple[Tensor, Tensor]:
        settings = (split.image_column, split.label_column, self.on_corrupt)
        return cached(self.cache, split.files, settings, lambda: split.decode(where, self.on_corrupt))


def _matching(root: Path, key: str, pattern: str) -> list[Path]:
    """Regular files that match, sorted; hidden ones and those in hidden folders are left out.

    Raises ConfigError for what is no pattern, DataError for a match that would have to be waited for.
    """
    try:
        paths = sorted(root.glob(pattern))
    except (ValueError, NotImplementedError) as error:
        raise ConfigError(
            f"data.{key} = {pattern!r} is no pattern of files below data.root ({error}); expected one such as "
            "train-*.parquet"
        ) from error
    except OSError as error:
        raise DataError(f"{error.filename or found(root)} cannot be read: {error.strerror}") from error
    paths = [path for path in paths if not any(part.startswith(".") for part in path.relative_to(root).parts)]
    for path in paths:
        try:
            wrong = irregular(path.stat().st_mode)
        except OSError as error:
            wrong = error.strerror or str(error)
        if wrong:
            raise DataError(
                f"{path} cannot be read as Parquet ({wrong}); remove it, or set data.{key} to another pattern"
            )
    return paths


def _choices(pattern: str) -> list[str]:
    """The patterns that `before{a,b}after` stands for, in order."""
    before, brace, rest = pattern.partition("{")
    words, closed, after = rest.partition("}")
    return [before + word + after for word in words.split(",")] if brace and closed else [pattern]
