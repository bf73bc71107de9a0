"""Files that verbs read from a run folder, or write where they are told."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mixcore.errors import CheckpointError, RunFolderError, StorageError

__all__ = ["find_checkpoint", "load_checkpoint", "settings_of", "written"]


def settings_of(run_folder: Path, expected: str) -> Path:
    """The configuration in a run folder. RunFolderError, asking for what is `expected`, where there is none."""
    settings = run_folder / "config.toml"
    if not settings.is_file():
        raise RunFolderError(
            f"{run_folder} is no run folder: it has no config.toml. Name {expected} that mixcore run wrote, such as "
            "runs/quickstart"
        )
    return settings


def find_checkpoint(run_folder: Path, which: str) -> Path:
    """The file that `which` names: best, last, previous, or a path. CheckpointError where it is not there."""
    folder = run_folder / "checkpoints"
    path = folder / f"{which}.pt" if which in ("best", "last", "previous") else Path(which)
    if not path.is_file():
        there = ", ".join(sorted(found.stem for found in folder.glob("*.pt"))) or "none yet"
        raise CheckpointError(
            f"there is no checkpoint {path}; {run_folder} has: {there}. Name one with --checkpoint, or a file"
        )
    return path


def load_checkpoint(run_folder: Path, path: Path) -> dict[str, Any]:
    """The content of the checkpoint at `path`. CheckpointError, naming others of the run, where it cannot be used."""
    from mixcore.run.checkpoint import read_checkpoint

    try:
        return read_checkpoint(path)
    except CheckpointError as error:
        others = sorted(found for found in (run_folder / "checkpoints").glob("*.pt") if found != path)
        advice = f". {run_folder} has others: {', '.join(other.name for other in others)}" if others else ""
        raise CheckpointError(f"{error}{advice}") from error


@contextmanager
def written(path: Path, advice: str) -> Iterator[None]:
    """Around the writing of `path`: StorageError with the `advice` where it fails."""
    try:
        yield
    except OSError as error:
        raise StorageError(f"{path} could not be written: {error.strerror or error}; {advice}") from error
