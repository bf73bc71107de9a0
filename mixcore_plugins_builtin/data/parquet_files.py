"""Reading images and labels out of Parquet files."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import attrs
import torch
from torch import Tensor

from mixcore.api import DataError
from mixcore_plugins_builtin.data.decode import decode_all
from mixcore_plugins_builtin.data.options import MOST_CLASSES, OnCorrupt

__all__ = ["ParquetSplit", "open_split"]

IMAGE_COLUMNS = ("image", "img")
LABEL_COLUMNS = ("fine_label", "label")
ROWS_AT_ONCE = 1024


@attrs.frozen(eq=False)
class ParquetSplit:
    """The files of one split, its columns, and the class names in its metadata (None: there are none)."""

    files: tuple[Path, ...]
    image_column: str
    label_column: str
    class_names: tuple[str, ...] | None

    def decode(self, where: str, on_corrupt: OnCorrupt) -> tuple[Tensor, Tensor]:
        """Images uint8 [n,3,H,W] and labels int64 [n]. DataError for files, labels or images that cannot be read."""
        labels = list(self._labels())  # first: a label that is wrong need not wait for all images
        images, kept = decode_all(self._images(), where, on_corrupt)
        return images, torch.tensor(labels, dtype=torch.int64)[kept]

    def _labels(self) -> Iterator[int]:
        for file, row, label in self._column(self.label_column):
            if label is None:
                raise DataError(
                    f"row {row} of {file} has no {self.label_column!r}; every image needs a label; correct it, or set "
                    "data.train and data.validation to files that have labels"
                )
            if not 0 <= label < MOST_CLASSES:
                raise DataError(
                    f"row {row} of {file} has {self.label_column} = {label}; class labels are integers from 0 (-1 "
                    "marks the unlabelled splits of the Hugging Face hub); correct it, or set data.train and "
                    "data.validation to files that have labels"
                )
            yield label

    def _images(self) -> Iterator[tuple[str, bytes]]:
        """Name and bytes of each image."""
        for file, row, image in self._column(self.image_column):
            image = image or {}
            name = f" ({image['path']})" if image.get("path") else ""
            yield f"row {row} of {file}{name}", image.get("bytes") or b""

    def _column(self, name: str) -> Iterator[tuple[Path, int, Any]]:
        """File, row in it, and value of each row of a column."""
        pyarrow, parquet = _pyarrow()
        for file in self.files:
            row = 0
            try:
                with parquet.ParquetFile(file) as opened:
                    for batch in opened.iter_batches(ROWS_AT_ONCE, columns=[name]):
                        for value in batch.column(name).to_pylist():
                            yield file, row, value
                            row += 1
            except (pyarrow.ArrowException, OSError) as error:
                raise DataError(
                    f"{file} cannot be read as Parquet after row {row} ({error}); fetch it again"
                ) from error


def open_split(files: Sequence[Path], image_column: str, label_column: str) -> ParquetSplit:
    """Find the columns of a split, the same in every file. An empty column name takes a usual one.

    Raises DataError where a file has none, keeps something else in them, or names other classes than the first.
    """
    first = _schema(files[0])
    image = _find(first, files[0], "image", image_column, IMAGE_COLUMNS)
    label = _find(first, files[0], "label", label_column, LABEL_COLUMNS)
    names: dict[tuple[str, ...], Path] = {}
    for file in files:
        schema = first if file is files[0] else _schema(file)
        _find(schema, file, "image", image, ())
        _find(schema, file, "label", label, ())
        _check_types(schema, file, image, label)
        found = _class_names(schema.metadata, label)
        if found is not None:
            names.setdefault(found, file)
    if len(names) > 1:
        raise DataError(different_names(names))
    return ParquetSplit(tuple(files), image, label, next(iter(names), None))


def different_names(names: dict[tuple[str, ...], Path]) -> str:
    """Say that files number their classes differently: class names, and a file that has them."""
    (first, one), (second, other), *_ = names.items()
    at = next((i for i, pair in enumerate(zip(first, second, strict=False)) if pair[0] != pair[1]), None)
    what = f"{len(first)} and {len(second)} classes" if at is None else f"class {at} {first[at]!r} and {second[at]!r}"
    return (
        f"the metadata of {one} and {other} call {what}; one label would mean two classes; fetch both again from one "
        "version of the set"
    )


def _schema(file: Path) -> Any:
    pyarrow, parquet = _pyarrow()
    try:
        return parquet.read_schema(file)
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{file} cannot be read as Parquet ({error}); fetch it again") from error


def _pyarrow() -> tuple[ModuleType, ModuleType]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise DataError(
            'data.name = "parquet" needs pyarrow, which is not installed; type: pip install "mixcore[parquet]"'
        ) from error
    return pyarrow, pyarrow.parquet


def _find(schema: Any, file: Path, kind: str, given: str, usual: Sequence[str]) -> str:
    wanted = (given,) if given else usual
    for name in wanted:
        if name in schema.names:
            return name
    raise DataError(
        f"{file} has the columns {', '.join(schema.names)} and none called {' or '.join(wanted)}; set "
        f"data.{kind}_column to the one with the {kind}s, which every file must have"
    )


def _check_types(schema: Any, file: Path, image: str, label: str) -> None:
    types = _pyarrow()[0].types
    kind = schema.field(image).type
    place = kind.get_field_index("bytes") if types.is_struct(kind) else -1
    if place < 0 or not (types.is_binary(kind.field(place).type) or types.is_large_binary(kind.field(place).type)):
        raise DataError(f"column {image!r} of {file} is {kind}; images are kept as struct<bytes: binary, path: string>")
    if not types.is_integer(schema.field(label).type):
        raise DataError(
            f"column {label!r} of {file} is {schema.field(label).type}; class labels are integers from 0, in every file"
        )


def _class_names(metadata: dict[bytes, bytes] | None, label: str) -> tuple[str, ...] | None:
    try:
        feature = json.loads((metadata or {})[b"huggingface"])["info"]["features"][label]
        return tuple(map(str, feature["names"]))
    except (KeyError, TypeError, ValueError, RecursionError):  # no names: the labels themselves tell how many classes
        return None
