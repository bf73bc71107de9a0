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
from mixcore_plugins_builtin.data.options import OnCorrupt

__all__ = ["ParquetSplit", "open_split"]

IMAGE_COLUMNS = ("image", "img")
LABEL_COLUMNS = ("fine_label", "label")
ROWS_AT_ONCE = 1024


@attrs.frozen(eq=False)
class ParquetSplit:
    """The files of one split, its columns, and the number of class names in its metadata (None: there are none)."""

    files: tuple[Path, ...]
    image_column: str
    label_column: str
    class_names: int | None

    def decode(self, where: str, on_corrupt: OnCorrupt) -> tuple[Tensor, Tensor]:
        """Images uint8 [n,3,H,W] and labels int64 [n]. DataError for files or images that cannot be read."""
        labels: list[int | None] = []
        images, kept = decode_all(self._rows(labels), where, on_corrupt)
        if None in labels:
            raise DataError(
                f"row {labels.index(None)} of {where} has no {self.label_column!r}; every image needs a label"
            )
        return images, torch.tensor(labels, dtype=torch.int64)[kept]

    def _rows(self, labels: list[int | None]) -> Iterator[tuple[str, bytes]]:
        """Name and bytes of each image; labels are added to the list as their rows are read."""
        pyarrow, parquet = _pyarrow()
        for file in self.files:
            row = 0
            try:
                with parquet.ParquetFile(file) as opened:
                    for batch in opened.iter_batches(ROWS_AT_ONCE, columns=[self.image_column, self.label_column]):
                        labels += batch.column(self.label_column).to_pylist()
                        for image in batch.column(self.image_column).to_pylist():
                            image = image or {}
                            name = f" ({image['path']})" if image.get("path") else ""
                            yield f"row {row} of {file}{name}", image.get("bytes") or b""
                            row += 1
            except (pyarrow.ArrowException, OSError) as error:
                raise DataError(
                    f"{file} cannot be read as Parquet after row {row} ({error}); fetch it again"
                ) from error


def open_split(files: Sequence[Path], image_column: str, label_column: str) -> ParquetSplit:
    """Find the columns of a split. An empty column name takes a usual one. Raises DataError where there is none."""
    pyarrow, parquet = _pyarrow()
    try:
        schema = parquet.read_schema(files[0])
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{files[0]} cannot be read as Parquet ({error}); fetch it again") from error
    image = _column(schema, files[0], "image", image_column, IMAGE_COLUMNS)
    label = _column(schema, files[0], "label", label_column, LABEL_COLUMNS)
    kind = schema.field(image).type
    if not pyarrow.types.is_struct(kind) or kind.get_field_index("bytes") < 0:
        raise DataError(
            f"column {image!r} of {files[0]} is {kind}; images are kept as struct<bytes: binary, path: string>"
        )
    if not pyarrow.types.is_integer(schema.field(label).type):
        raise DataError(
            f"column {label!r} of {files[0]} is {schema.field(label).type}; class labels are integers from 0"
        )
    return ParquetSplit(tuple(files), image, label, _count_class_names(schema.metadata, label))


def _pyarrow() -> tuple[ModuleType, ModuleType]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise DataError(
            'data.name = "parquet" needs pyarrow, which is not installed; type: pip install "mixcore[parquet]"'
        ) from error
    return pyarrow, pyarrow.parquet


def _column(schema: Any, file: Path, kind: str, given: str, usual: Sequence[str]) -> str:
    wanted = (given,) if given else usual
    for name in wanted:
        if name in schema.names:
            return name
    raise DataError(
        f"{file} has the columns {', '.join(schema.names)} and none called {' or '.join(wanted)}; set "
        f"data.{kind}_column to the one with the {kind}s"
    )


def _count_class_names(metadata: dict[bytes, bytes] | None, label: str) -> int | None:
    try:
        feature = json.loads((metadata or {})[b"huggingface"])["info"]["features"][label]
        return len(feature["names"])
    except (KeyError, TypeError, ValueError):  # no names: the labels themselves tell how many classes there are
        return None
