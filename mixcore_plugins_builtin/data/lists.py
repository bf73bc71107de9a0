"""List files: a path and a label a line."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from mixcore.api import DataError
from mixcore_plugins_builtin.data.text_files import integer, line_at, numbered_lines

__all__ = ["read_list"]

SEPARATORS = (",", ";", " ")
"""In the order in which they are tried on the first line: a path with spaces may stand before a comma."""


def read_list(path: Path) -> list[tuple[str, int]]:
    """The (path, label) pairs of a list: what is before and after the last separator of a line.

    The separator (comma, semicolon or space) is the one that leaves an integer at the end of the first line. Raises
    DataError for an empty list, a first line without a label, and a line that does not follow the first.
    """
    lines = numbered_lines(path)
    if not lines:
        raise DataError(f"the list {path.absolute()} is empty; expected a path and a label in each line")
    separator = next((one for one in SEPARATORS if _split(lines[0][1], one)), None)
    if separator is None:
        raise DataError(
            f"{line_at(path, *lines[0])} has no integer label after a comma, semicolon or space; expected a path and a "
            'label, such as "n01440764/1.JPEG 0", in each line; a list without labels cannot be trained on'
        )
    return list(_samples(path, lines, separator))


def _samples(path: Path, lines: list[tuple[int, str]], separator: str) -> Iterator[tuple[str, int]]:
    for number, line in lines:
        sample = _split(line, separator)
        if sample is None:
            raise DataError(
                f"{line_at(path, number, line)} is not as the first line is; expected a path, {separator!r} and an "
                "integer label"
            )
        yield sample


def _split(line: str, separator: str) -> tuple[str, int] | None:
    before, _, after = line.rpartition(separator)
    name, label = before.strip(), integer(after.strip())
    return None if label is None or not name else (name, label)
