"""Faults of a configuration: collected first, then raised all at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NoReturn, TypeAlias

import attrs

from mixcore.errors import ConfigError, MixcoreError
from mixcore.words import LONGEST, cut

__all__ = ["Fault", "Path", "dotted", "raise_faults"]

MOST_FAULTS = 50
"""Faults that one message lists."""
LONGEST_FAULT = 4000
"""Characters that one fault may have in it; a list of installed plugins is long."""

Path: TypeAlias = tuple[str | int, ...]
"""Where something stands in the tree of tables: ("mix", 1, "alpha") is written mix[1].alpha."""


@attrs.frozen
class Fault:
    """One thing that is wrong: where it stands, and what was found and is allowed."""

    path: Path
    message: str
    error: MixcoreError | None = None
    """The error to raise where this is the only fault; None: a ConfigError."""


def dotted(path: Path) -> str:
    """The path as it is written in messages."""
    text = ""
    for key in path:
        text += f"[{key}]" if isinstance(key, int) else f".{cut(key)}" if text else cut(key)
    return cut(text, 4 * LONGEST)


def _nowhere(_path: Path) -> str:
    return ""


def raise_faults(faults: Sequence[Fault], source: str, place: Callable[[Path], str] = _nowhere) -> NoReturn:
    """Raise all faults as one ConfigError, or a lone one as the error it brings.

    `source` is what the heading calls the configuration; `place` gives the file and line of a path, or nothing.
    """

    def line(fault: Fault) -> str:
        parts = (place(fault.path), dotted(fault.path), cut(fault.message, LONGEST_FAULT))
        return ": ".join(text for text in parts if text)

    if len(faults) == 1:
        fault = faults[0]
        if fault.error is None:
            raise ConfigError(line(fault))
        raise type(fault.error)(line(fault)) from fault.error.__cause__
    heading = f"{len(faults)} faults" + (f" in {source}" if source else "")
    cause = next((fault.error for fault in faults if fault.error is not None), None)
    more = [f"and {len(faults) - MOST_FAULTS} more"] if len(faults) > MOST_FAULTS else []
    lines = (*map(line, faults[:MOST_FAULTS]), *more)
    refusal = ConfigError("\n  ".join((f"{heading}:", *lines)))
    refusal.faults = lines
    raise refusal from cause
