"""TOML text: parsed within limits that every later step can bear, and the line of each key."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import tomli

from mixcore.config.faults import Fault, Path

__all__ = ["LARGEST", "MAX_DEPTH", "BadTextError", "key_lines", "parse", "tree_faults"]

MAX_DEPTH = 32
"""Tables and lists inside each other; what copies, writes or hashes a configuration goes down one call for each."""
LARGEST = 2**63 - 1
"""TOML's integers have 64 bits."""


class BadTextError(ValueError):
    """The text is no TOML that can be used; `line` counts from 1, None where it is not known."""

    def __init__(self, message: str, line: int | None = None) -> None:
        super().__init__(message)
        self.line = line


def parse(text: str) -> dict[str, Any]:
    """The tree of a TOML text. Raises BadTextError for whatever is wrong with it."""
    try:
        return tomli.loads(text)
    except tomli.TOMLDecodeError as error:
        raise BadTextError(str(error), error.lineno) from error
    except RecursionError as error:
        raise BadTextError(f"lists or tables are nested deeper than {MAX_DEPTH} levels") from error
    except ValueError as error:  # Python itself refuses to read an integer of thousands of digits
        raise BadTextError(f"an integer is beyond the 64 bits that TOML has: {error}", _long_integer(text)) from error


def _long_integer(text: str) -> int | None:
    """Line of the first run of digits that Python refuses."""
    found = re.search(r"\d[\d_]{4000,}", text)
    return None if found is None else text.count("\n", 0, found.start()) + 1


def tree_faults(tree: dict[str, Any]) -> list[Fault]:
    """What in a parsed tree no configuration can use: nesting, integers and characters beyond all bounds."""
    faults = []
    for path, value in _each(tree):
        message = _text_fault(path[-1]) if isinstance(path[-1], str) else ""
        if len(path) == MAX_DEPTH and isinstance(value, dict | list) and value:
            message = f"nested deeper than {MAX_DEPTH} levels"
        elif isinstance(value, int) and not -LARGEST - 1 <= value <= LARGEST:
            message = f"expected an integer of at most 64 bits, found one of about {value.bit_length()}"
        elif isinstance(value, str):
            message = message or _text_fault(value)
        if message:
            faults.append(Fault(path, message))
    return faults


def _each(tree: dict[str, Any]) -> Iterator[tuple[Path, Any]]:
    """Every path of the tree down to MAX_DEPTH with its value; without recursion, because the depth is unknown."""
    waiting: list[tuple[Path, Any]] = [((), tree)]
    while waiting:
        path, value = waiting.pop()
        if path:
            yield path, value
        if len(path) == MAX_DEPTH:
            continue
        if isinstance(value, dict):
            waiting += [((*path, key), item) for key, item in reversed(value.items())]
        elif isinstance(value, list):
            waiting += [((*path, index), item) for index, item in reversed(list(enumerate(value)))]


def _text_fault(text: str) -> str:
    if "\0" in text:
        return "a NUL character, which no name or path can hold"
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return "bytes that are no UTF-8; expected text"
    return ""


_TOKEN = re.compile(
    r"""
    \"\"\" [^"\\]* (?: (?: \\. | "(?!"") ) [^"\\]* )* \"{3,5}      # strings of several lines
    | \'\'\' [^']* (?: '(?!'') [^']* )* '{3,5}
    | " [^"\\\n]* (?: \\. [^"\\\n]* )* "
    | ' [^'\n]* '
    | \# [^\n]*
    | [\[\]{}\n]
    """,
    re.DOTALL | re.VERBOSE,
)
"""What decides where a statement of a valid TOML text ends."""


def _statements(text: str) -> Iterator[tuple[int, str]]:
    """Each statement with the number of its first line: it ends with a line, outside of all brackets and strings."""
    start, line, depth = 0, 1, 0
    first = 1
    for token in _TOKEN.finditer(text):
        found = token[0]
        line += found.count("\n")
        if found in ("[", "{"):
            depth += 1
        elif found in ("]", "}"):
            depth -= 1
        elif found == "\n" and depth == 0:
            yield first, text[start : token.end()]
            start, first = token.end(), line
    yield first, text[start:]


def key_lines(text: str) -> dict[Path, int]:
    """Line of each key and table of a valid TOML text."""
    lines: dict[Path, int] = {}
    counts: dict[Path, int] = {}
    table: Path = ()
    for line, statement in _statements(text):
        opening = re.match(r"\s*(\[{0,2})", statement)
        brackets = opening[1] if opening else ""
        for key in _paths(parse(statement)):
            if brackets == "[[":
                if isinstance(key[-1], int):
                    array = _in_latest(key[:-1], counts)
                    counts[array] = counts.get(array, -1) + 1
                    table = (*array, counts[array])
                    lines[table] = line
            elif brackets == "[":
                table = _in_latest(key, counts)
                lines.setdefault(table, line)
            else:
                lines.setdefault((*table, *key), line)
    return lines


def _in_latest(key: Path, counts: dict[Path, int]) -> Path:
    """The path of a heading: below the heading of a list it stands in that list's latest table."""
    path: Path = ()
    for name in (name for name in key if isinstance(name, str)):
        if path in counts:
            path = (*path, counts[path])
        path = (*path, name)
    return path


def _paths(tree: dict[str, Any]) -> list[Path]:
    return [path for path, _ in _each(tree)]
