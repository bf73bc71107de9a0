"""Types and values in the words of messages and help."""

from __future__ import annotations

import collections.abc
import datetime
import types
from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

from mixcore.options import Saliency
from mixcore.words import cut

__all__ = ["type_text", "value_text"]

_PLAIN: dict[object, str] = {
    bool: "true or false",
    int: "an integer",
    float: "a number",
    str: "a string",
    Path: "a path",
    Any: "any value",
    Saliency: "the name of a saliency or a table with its name and options",
    None: "any value",
}


def type_text(declared: Any) -> str:
    """What a value of this type looks like in TOML: `a number or a list of 2 numbers`."""
    try:
        if declared in _PLAIN:
            return _PLAIN[declared]
    except TypeError:  # an unhashable annotation
        return str(declared)
    origin, arguments = get_origin(declared), get_args(declared)
    if origin is Literal:
        return _joined([_literal(value) for value in arguments])
    if origin in (Union, types.UnionType):
        return _joined([type_text(member) for member in arguments if member is not type(None)])
    kind = origin or declared
    if kind is tuple and arguments and arguments[-1] is not Ellipsis:
        return f"a list of {len(arguments)} ({', '.join(type_text(item) for item in arguments)})"
    if kind in (list, tuple, set, frozenset, collections.abc.Sequence, collections.abc.Iterable):
        return f"a list (each {type_text(arguments[0])})" if arguments else "a list"
    if kind in (dict, collections.abc.Mapping, collections.abc.MutableMapping):
        return "a table"
    if isinstance(kind, type) and issubclass(kind, Enum):
        return _joined([_literal(member.value) for member in kind])
    return "a table" if hasattr(kind, "__attrs_attrs__") else getattr(kind, "__name__", str(kind))


def value_text(value: object) -> str:
    """What was found, with its kind: `"0.2" (a string)`."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int):
        return f"{_integer(value)} (an integer)"
    if isinstance(value, float):
        return f"{value} (a number)"
    if isinstance(value, str):
        return f'"{cut(value)}" (a string)'
    if isinstance(value, Mapping):
        return "a table"
    if isinstance(value, list | tuple):
        return f"a list of {len(value)}"
    if isinstance(value, datetime.date | datetime.time):
        return f"{value} (a date or time)"
    return f"{cut(repr(value))} ({type(value).__name__})"


def _integer(value: int) -> str:
    """Python refuses to write integers of thousands of digits."""
    return str(value) if value.bit_length() < 200 else f"one of {value.bit_length()} bits"


def _literal(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f'"{value}"' if isinstance(value, str) else str(value)


def _joined(choices: list[str]) -> str:
    unique = list(dict.fromkeys(choices))
    return unique[0] if len(unique) == 1 else f"{', '.join(unique[:-1])} or {unique[-1]}"
