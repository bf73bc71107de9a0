"""The run folder: where its files lie, whose run it holds, and how a file in it is replaced.

config.toml  environment.json  metrics.jsonl  summary.json  checkpoints/{last,previous,best}.pt
TensorBoard events  .lock
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import tomli

from mixcore.config.load import determining
from mixcore.errors import RunFolderError, StorageError

__all__ = ["RunFolder", "differences", "replace_file"]


class RunFolder:
    """Paths and ownership of one run's folder. Making an object touches nothing."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = path / "config.toml"
        self.environment = path / "environment.json"
        self.metrics = path / "metrics.jsonl"
        self.summary = path / "summary.json"
        self.checkpoints = path / "checkpoints"

    def started(self) -> bool:
        """Whether a run has left results here that a new one must not overwrite."""
        recorded = self.metrics.exists() and self.metrics.stat().st_size > 0
        return recorded or self.summary.exists() or any(self.checkpoints.glob("*.pt"))

    def check_owner(self, resolved: Mapping[str, Any]) -> None:
        """Refuse a folder that holds a run of another configuration than the `resolved` one; [run] may differ.

        Raises RunFolderError naming each key that differs.
        """
        if not self.started():
            return
        try:
            found = tomli.loads(self.config.read_text("utf-8"))
        except (OSError, ValueError) as error:
            raise RunFolderError(
                f"{self.path} holds results, but its config.toml cannot be read ({error}); expected the configuration "
                f"that they belong to. {_elsewhere(self.path)}"
            ) from error
        changed = differences(found, resolved)
        if changed:
            lines = "\n".join(f"  {line}" for line in changed)
            raise RunFolderError(f"{self.path} holds a run of another configuration:\n{lines}\n{_elsewhere(self.path)}")

    def make(self) -> None:
        """Create the folder and prove that it can be written. Raises RunFolderError."""
        try:
            self.checkpoints.mkdir(parents=True, exist_ok=True)
            for folder in (self.path, self.checkpoints):
                with tempfile.TemporaryFile(dir=folder):
                    pass
        except OSError as error:
            raise RunFolderError(
                f"the run folder {self.path} cannot be written: {error.strerror or error}; expected a writable "
                "directory. Name another one: --set run.dir=PATH"
            ) from error

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep the folder for this process until the block ends, or the process does. RunFolderError where it is taken.

        The lock is one that worker processes do not inherit: a killed run leaves none behind. Where the file system
        has no locks, nothing is kept.
        """
        with (self.path / ".lock").open("w") as file:
            try:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                if error.errno in (errno.EACCES, errno.EAGAIN):
                    raise RunFolderError(
                        f"another process is training in {self.path}; wait until it has ended, or give this run a "
                        "folder of its own: --set run.dir=PATH"
                    ) from error
            yield

    def write_text(self, path: Path, text: str) -> None:
        """Replace a text file of the folder. Raises StorageError."""
        replace_file(path, lambda file: file.write(text.encode("utf-8")))

    def write_json(self, path: Path, value: Mapping[str, Any]) -> None:
        """Replace a JSON file of the folder. Raises StorageError."""
        self.write_text(path, json.dumps(value, indent=2) + "\n")


def _elsewhere(path: Path) -> str:
    return f"Give the new run a folder of its own, --set run.dir=PATH, or remove {path}"


def differences(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """One line per key that the numbers depend on and that differs between two configuration trees, sorted by key."""
    old, new = _flat(determining(found)), _flat(determining(wanted))
    return [
        f"{key} is {_shown(old, key)} there and {_shown(new, key)} now"
        for key in sorted(old.keys() | new.keys())
        if old.get(key, _ABSENT) != new.get(key, _ABSENT)
    ]


_ABSENT = object()


def _shown(values: Mapping[str, Any], key: str) -> str:
    return json.dumps(values[key], default=str) if key in values else "absent"


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    values: dict[str, Any] = {}
    for key, value in tree.items():
        path = f"{prefix}{key}"
        if isinstance(value, Mapping):
            values.update(_flat(value, f"{path}."))
        elif isinstance(value, (list, tuple)) and any(isinstance(item, Mapping) for item in value):
            for index, item in enumerate(value):
                values.update(_flat({path if len(value) == 1 else f"{path}[{index}]": item}))
        else:
            values[path] = list(value) if isinstance(value, tuple) else value
    return values


def replace_file(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Replace `path` by what `write` puts into a file, so that at every instant the old or the new one is whole.

    Raises StorageError, with the old file as it was, where the disk refuses.
    """
    temporary = path.with_name(f"{path.name}.tmp")
    try:
        with temporary.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except (OSError, RuntimeError) as error:
        temporary.unlink(missing_ok=True)
        # torch.save turns the failed write of its file into a RuntimeError
        cause = error if isinstance(error, OSError) else error.__context__
        if not isinstance(cause, OSError):
            raise
        raise StorageError(
            f"{path} could not be written: {cause.strerror or cause}; what it held before is untouched. Make room on "
            "the disk, then start again with the same command"
        ) from error


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
