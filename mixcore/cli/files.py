"""Files that verbs write where they are told."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mixcore.errors import StorageError

__all__ = ["written"]


@contextmanager
def written(path: Path, advice: str) -> Iterator[None]:
    """Around the writing of `path`: StorageError with the `advice` where it fails."""
    try:
        yield
    except OSError as error:
        raise StorageError(f"{path} could not be written: {error.strerror or error}; {advice}") from error
