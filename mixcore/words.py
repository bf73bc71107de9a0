"""Words of messages: long ones cut, misspelt ones with what was probably meant, numbers as they are told."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = ["LONGEST", "as_measured", "cut", "nearest", "suggestion"]

LONGEST = 80
"""Characters of a value, a key or a path that a message repeats."""


def cut(text: str, longest: int = LONGEST) -> str:
    """The text, its middle left out where it is longer than `longest` characters."""
    if len(text) <= longest:
        return text
    half = (longest - 5) // 2
    return f"{text[:half]} ... {text[-half:]}"


def as_measured(metric: str, value: float) -> str:
    """The value of a metric as tables have it: an accuracy in percent with two decimals, any other with four."""
    return f"{value:.2f}" if metric.startswith("top") else f"{value:.4f}"


def nearest(name: str, choices: Iterable[str]) -> str | None:
    """The choice that is spelt most like `name`, case aside; None where nothing comes near."""
    by_lower = {choice.lower(): choice for choice in choices}
    found = difflib.get_close_matches(name.lower(), by_lower, n=1, cutoff=0.6)
    return by_lower[found[0]] if found else None


def suggestion(name: str, choices: Iterable[str]) -> str:
    """`; did you mean "alpha"?`, or nothing."""
    found = nearest(name, choices)
    return f'; did you mean "{found}"?' if found else ""
