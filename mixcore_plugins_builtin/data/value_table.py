"""Tables of values: a CSV of paths and numbers with a header, or a list of a path and a number a line."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import attrs

from mixcore.api import DataError
from mixcore_plugins_builtin.data.labelled import some
from mixcore_plugins_builtin.data.lists import read_numbers
from mixcore_plugins_builtin.data.text_files import line_at, number, numbered_lines

__all__ = ["Columns", "ValueTable", "read_values"]

ONLY = ("value",)
"""What the values of a list without a header are called."""


@attrs.frozen(kw_only=True)
class Columns:
    """Which columns of a table are what."""

    path: str
    split: str
    values: Sequence[str] = ()
    """Empty: all other columns."""


@attrs.frozen(kw_only=True)
class ValueTable:
    """Paths with values and, where the table has such a column, the split of each."""

    names: tuple[str, ...]
    """Of the values."""
    samples: list[tuple[str, tuple[float, ...]]]
    splits: list[str] | None = None

    def of_split(self, split: str) -> list[tuple[str, tuple[float, ...]]]:
        """The samples of one split, in the order of the table."""
        assert self.splits is not None
        return [sample for sample, own in zip(self.samples, self.splits, strict=True) if own == split]


def read_values(path: Path, columns: Columns) -> ValueTable:
    """The table at `path`: with a header if its first line names the column of paths, else a path and a number a line.

    A header's fields are divided by commas, as csv has it; a list's lines at their last separator (comma, semicolon or
    space), so that paths may have more of them. Raises DataError for columns that are missing, fields that are no
    finite numbers, and lines that do not follow the first.
    """
    lines = numbered_lines(path)
    fields = [_fields(path, *line) for line in lines[:1]]
    if fields and columns.path in fields[0]:
        return _with_header(path, fields[0], lines[1:], columns)
    if columns.values:
        raise DataError(
            f"{path.absolute()} has no header with the column {columns.path!r}, which data.columns needs; write one, "
            "or set data.path_column to what its column of paths is called"
        )
    try:
        samples = read_numbers(path)
    except DataError as error:
        error.add_note(
            f"a table of several values, or of splits, begins with a header that names the column {columns.path!r} "
            "(data.path_column)"
        )
        raise
    return ValueTable(names=ONLY, samples=[(name, (value,)) for name, value in samples])


def _fields(path: Path, at: int, line: str) -> list[str]:
    try:
        return [field.strip() for field in next(csv.reader([line], strict=True))]
    except csv.Error as error:
        raise DataError(f"{line_at(path, at, line)} is no line of a CSV file ({error})") from error


def _with_header(path: Path, header: Sequence[str], lines: list[tuple[int, str]], columns: Columns) -> ValueTable:
    names = tuple(columns.values) or tuple(name for name in header if name not in (columns.path, columns.split))
    missing = [name for name in names if name not in header]
    if missing or not names:
        raise DataError(
            f"{path.absolute()} has the columns {some(header, 10)} and no {some(missing) if missing else 'values'}; "
            "set data.columns to those that are to be predicted"
        )
    rows = []
    for at, line in lines:
        fields = _fields(path, at, line)
        if len(fields) != len(header):
            raise DataError(
                f"{line_at(path, at, line)} has {len(fields)} fields and the header {len(header)}; a field with a "
                "comma stands in quotes"
            )
        row = dict(zip(header, fields, strict=True))
        rows.append(row)
    samples = [(row[columns.path], _values(path, line, row, names)) for row, line in zip(rows, lines, strict=True)]
    splits = [row[columns.split] for row in rows] if columns.split in header else None
    return ValueTable(names=names, samples=samples, splits=splits)


def _values(path: Path, line: tuple[int, str], row: dict[str, str], names: Sequence[str]) -> tuple[float, ...]:
    values = {name: number(row[name]) for name in names}
    wrong = [name for name, value in values.items() if value is None]
    if wrong:
        raise DataError(
            f"{line_at(path, *line)} has {row[wrong[0]]!r} in the column {wrong[0]!r}; expected a finite number; "
            "correct it, or set data.columns to the columns that are to be predicted"
        )
    return tuple(value for value in values.values() if value is not None)
