"""Text files that come with image sets, line by line."""

from __future__ import annotations

import math
import re
from pathlib import Path

from mixcore.api import DataError

__all__ = ["integer", "line_at", "number", "numbered_lines", "read_pairs"]

SHOWN = 80
"""Characters of a line that a message shows."""
_INTEGER = re.compile(r"-?[0-9]{1,9}")
_LARGEST = 3.4e38
"""Beyond it float32 is infinite."""


def integer(text: str) -> int | None:
    """The number that a field holds; None for what is no integer, or beyond any number of classes."""
    return int(text) if _INTEGER.fullmatch(text) else None


def number(text: str) -> float | None:
    """The number that a field holds; None for what is none, not finite, or beyond float32."""
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) and abs(value) <= _LARGEST else None


def numbered_lines(path: Path) -> list[tuple[int, str]]:
    """The lines that are not blank, with their numbers from 1. Raises DataError for a file that is no text in UTF-8."""
    try:
        with path.open(encoding="utf-8-sig") as file:
            return [(number, text) for number, line in enumerate(file, 1) if (text := line.strip())]
    except OSError as error:
        raise DataError(f"{path.absolute()} cannot be read ({error.strerror or error})") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path.absolute()} is no text in UTF-8 ({error}); save it in UTF-8") from error


def line_at(path: Path, number: int, line: str) -> str:
    """How a message names a line."""
    shown = line if len(line) <= SHOWN else line[:SHOWN] + "..."
    return f"line {number} of {path.absolute()}, {shown!r},"


def read_pairs(path: Path) -> dict[str, str]:
    """The first word of each line, and the rest. Raises DataError for a line of one word, or a word that returns."""
    pairs: dict[str, str] = {}
    for number, line in numbered_lines(path):
        key, *rest = line.split(maxsplit=1)
        if not rest:
            raise DataError(
                f"{line_at(path, number, line)} has one word; expected two or more, as the release has them"
            )
        if key in pairs:
            raise DataError(f"{line_at(path, number, line)} names {key!r} again; remove one of the two lines")
        pairs[key] = rest[0]
    return pairs
