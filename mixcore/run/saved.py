"""Which checkpoints lie in a folder, by name."""

from __future__ import annotations

from pathlib import Path

from mixcore.errors import CheckpointError

__all__ = ["find", "newest", "path_of", "saved"]

_FOR_RESUMING = ("last", "previous")
"""Newest first."""
_NAMES = (*_FOR_RESUMING, "best")


def path_of(folder: Path, name: str) -> Path:
    """Where the checkpoint called "last", "previous" or "best" lies in `folder`."""
    return folder / f"{name}.pt"


def saved(folder: Path) -> list[Path]:
    """Every checkpoint that is there, by whatever name, sorted."""
    return sorted(folder.glob("*.pt"))


def newest(folder: Path) -> Path | None:
    """The one that a run goes on from; None where there is none.

    A run killed between the two renames of its writing has no last.pt for that instant.
    """
    return next((path for path in (path_of(folder, name) for name in _FOR_RESUMING) if path.exists()), None)


def find(folder: Path, which: str) -> Path:
    """The file that `which` names: best, last, previous, or a path. CheckpointError naming those that are there."""
    path = path_of(folder, which) if which in _NAMES else Path(which)
    if not path.is_file():
        there = ", ".join(found.stem for found in saved(folder)) or "none yet"
        raise CheckpointError(
            f"there is no checkpoint {path}; {folder.parent} has: {there}. Name one of these, or a file"
        )
    return path
