"""Data sets and augmentations are written by others: what messages call them, and what becomes of those that exit."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from mixcore.errors import DataError, HookError

__all__ = ["exit_words", "exits_named", "length_of", "named"]


def named(instance: object) -> str:
    """Module and class, as messages call it."""
    return f"{type(instance).__module__}.{type(instance).__qualname__}"


def exit_words(instance: object, error: SystemExit) -> str:
    """What it did, for messages."""
    code = "" if error.code is None else repr(error.code)
    return f"{named(instance)} called sys.exit({code}); only the run ends its process: raise an error instead"


@contextmanager
def exits_named(instance: object, where: str) -> Iterator[None]:
    """Turn a SystemExit of `instance` into a HookError that names it: the run fails, and does not end as if done."""
    try:
        yield
    except SystemExit as error:
        raise HookError(f"{where}: {exit_words(instance, error)}") from error


def length_of(dataset: object, where: str) -> int:
    """Samples of a data set. Raises DataError for one without a length, HookError for one that exits."""
    with exits_named(dataset, where):
        try:
            return len(dataset)  # type: ignore[arg-type]
        except TypeError as error:
            raise DataError(
                f"{where} is a {named(dataset)} without a length ({error}); data sets are read by index: give it "
                "__len__ and __getitem__"
            ) from error
