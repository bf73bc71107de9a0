"""List files: a path and a label a line."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Generic, TypeVar

import attrs

from mixcore.api import DataError
from mixcore_plugins_builtin.data.text_files import integer, line_at, number, numbered_lines

__all__ = ["read_list", "read_numbers"]

SEPARATORS = (",", ";", " ")
"""In the order in which they are tried on the first line: a path with spaces may stand before a comma."""

_Label = TypeVar("_Label")


@attrs.frozen
class _Form(Generic[_Label]):
    """What the labels of a list are."""

    read: Callable[[str], _Label | None]
    """The label that a field holds; None for what is none."""
    words: str
    example: str
    """A line with one."""


_INTEGERS = _Form(integer, "an integer label", "n01440764/1.JPEG 0")
_NUMBERS = _Form(number, "a number", "01/0001.jpg,35")


def read_list(path: Path) -> list[tuple[str, int]]:
    """The (path, label) pairs of a list: what is before and after the last separator of a line.

    The separator (comma, semicolon or space) is the one that leaves an integer at the end of the first line. Raises
    DataError for an empty list, a first line without a label, and a line that does not follow the first.
    """
    return _read(path, _INTEGERS)


def read_numbers(path: Path) -> list[tuple[str, float]]:
    """The (path, number) pairs of a list of values, divided and refused as :func:`read_list` does it."""
    return _read(path, _NUMBERS)


def _read(path: Path, form: _Form[_Label]) -> list[tuple[str, _Label]]:
    lines = numbered_lines(path)
    if not lines:
        raise DataError(f"the list {path.absolute()} is empty; expected a path and a label in each line")
    separator = next((one for one in SEPARATORS if _split(lines[0][1], one, form)), None)
    if separator is None:
        raise DataError(
            f"{line_at(path, *lines[0])} does not end in {form.words} after a comma, semicolon or space; expected a "
            f'path and a label, such as "{form.example}", in each line; a list without labels cannot be trained on'
        )
    return list(_samples(path, lines, separator, form))


def _samples(
    path: Path, lines: list[tuple[int, str]], separator: str, form: _Form[_Label]
) -> Iterator[tuple[str, _Label]]:
    for at, line in lines:
        sample = _split(line, separator, form)
        if sample is None:
            raise DataError(
                f"{line_at(path, at, line)} is not as the first line is; expected a path, {separator!r} and "
                f"{form.words}"
            )
        yield sample


def _split(line: str, separator: str, form: _Form[_Label]) -> tuple[str, _Label] | None:
    before, _, after = line.rpartition(separator)
    name, label = before.strip(), form.read(after.strip())
    return None if label is None or not name else (name, label)
