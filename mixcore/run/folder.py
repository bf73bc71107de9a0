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
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import attrs
import tomli

from mixcore.config.faults import Path as KeyPath
from mixcore.errors import RunFolderError
from mixcore.files import open_own, remove_leftovers, replace_file
from mixcore.logs.jsonl import count_lines, plain
from mixcore.run.resolve import determining
from mixcore.run.saved import saved

__all__ = ["ABSENT", "Difference", "RunFolder", "differences", "held_lock"]


def _number_or_none(value: object) -> bool:
    return value is None or type(value) in (int, float)


_SUMMARY: dict[str, Callable[[object], bool]] = {
    "metric": lambda value: isinstance(value, str),
    "protocol": lambda value: isinstance(value, str),
    "epochs": lambda value: type(value) is int,
    "value": _number_or_none,
    "best": lambda best: (
        best is None
        or (isinstance(best, dict) and {"epoch", "value"} <= best.keys() and all(map(_number_or_none, best.values())))
    ),
}
"""What everybody reads of summary.json."""


class RunFolder:
    """Paths and ownership of one run's folder. Making an object touches nothing."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = path / "config.toml"
        self.environment = path / "environment.json"
        self.metrics = path / "metrics.jsonl"
        self.summary = path / "summary.json"
        self.checkpoints = path / "checkpoints"
        self.lock = path / ".lock"

    def started(self) -> bool:
        """Whether a run has left results here that a new one must not overwrite."""
        recorded = self.metrics.exists() and self.metrics.stat().st_size > 0
        return recorded or self.summary.exists() or bool(saved(self.checkpoints))

    def check_owner(self, resolved: Mapping[str, Any], places: Collection[KeyPath] = ()) -> None:
        """Refuse a folder that holds a run of another configuration than the `resolved` one.

        What determines no number may differ: the core's comfort and the `places` of plugins' options. Raises
        RunFolderError naming each key that differs.
        """
        changed = self.differences_from(resolved, places)
        if changed:
            lines = "\n".join(f"  {line}" for line in changed)
            raise RunFolderError(f"{self.path} holds a run of another configuration:\n{lines}\n{_elsewhere(self.path)}")

    def differences_from(self, resolved: Mapping[str, Any], places: Collection[KeyPath] = ()) -> list[Difference]:
        """Each key in which the run that has begun here differs from the `resolved` configuration.

        None where no run has begun. Raises RunFolderError where it cannot be told.
        """
        if not self.started():
            return []
        try:
            found = tomli.loads(self.config.read_text("utf-8"))
        except (OSError, ValueError) as error:
            raise RunFolderError(
                f"{self.path} holds results, but its config.toml cannot be read ({error}); expected the configuration "
                f"that they belong to. {_elsewhere(self.path)}"
            ) from error
        return differences(found, resolved, places)

    def read_summary(self) -> dict[str, Any]:
        """What summary.json says of a finished run. Raises RunFolderError where it is damaged."""
        try:
            summary = json.loads(self.summary.read_text("utf-8"))
            if not isinstance(summary, dict) or not all(fits(summary.get(key)) for key, fits in _SUMMARY.items()):
                raise ValueError(f"{', '.join(_SUMMARY)} are not all there")
        except (OSError, ValueError, RecursionError) as error:
            raise RunFolderError(
                f"{self.summary} is damaged ({error}), so it cannot be told whether the run is done. Remove it and "
                "start again with the same command: the checkpoints hold what it said, and it is written anew"
            ) from error
        return summary

    def make(self) -> None:
        """Create the folder and prove that it can be written. Raises RunFolderError, also for a link among its files.

        The folder itself and `checkpoints` may be links to another disk.
        """
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
        own = (self.config, self.environment, self.metrics, self.summary, self.lock, *saved(self.checkpoints))
        odd = [str(path) for path in own if path.is_symlink() or (path.exists() and not path.is_file())]
        if odd:
            raise RunFolderError(
                f"{', '.join(odd)}: a link or no regular file, where the run writes a file of its own. Remove it; to "
                f"keep runs on another disk, let the folder {self.path} itself be a link"
            )

    def check_not_lost(self, allowed: int) -> None:
        """Refuse to start anew where a run of more than `allowed` epochs was recorded and its checkpoints are gone.

        A run that was killed before its first checkpoint leaves up to `allowed`. Raises RunFolderError.
        """
        epochs = count_lines(self.metrics)
        if epochs > allowed:
            raise RunFolderError(
                f"{self.metrics} holds {epochs} epochs, but {self.checkpoints} has no last.pt and no previous.pt to go "
                f"on from, and a run that starts anew would write over them. Put a checkpoint back, or remove "
                f"{self.path}, or give the new run a folder of its own: --set run.dir=PATH"
            )

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep the folder for this process until the block ends, or the process does. RunFolderError where it is taken.

        What a killed run left half written is removed.
        """
        taken = f"another process is training in {self.path}; wait until it has ended, or give this run a folder of "
        with held_lock(self.lock, f"{taken}its own: --set run.dir=PATH", "name another folder: --set run.dir=PATH"):
            for folder in (self.path, self.checkpoints):
                remove_leftovers(folder)
            yield

    def write_text(self, path: Path, text: str) -> None:
        """Replace a text file of the folder. Raises StorageError."""
        replace_file(path, lambda file: file.write(text.encode("utf-8")))

    def write_json(self, path: Path, value: Mapping[str, Any]) -> None:
        """Replace a JSON file of the folder, null for numbers that JSON cannot hold. Raises StorageError."""
        self.write_text(path, json.dumps(plain(value), indent=2, allow_nan=False) + "\n")


@contextmanager
def held_lock(lock: Path, taken: str, elsewhere: str) -> Iterator[None]:
    """Keep a lock file for this process until the block ends, or the process does.

    The lock is one that worker processes do not inherit: a killed process leaves none behind. Where the file system has
    no locks, nothing is kept. Raises RunFolderError: `taken` where another process has it, and with the advice
    `elsewhere` where it cannot be opened.
    """
    try:
        handle = open_own(lock, os.O_RDWR | os.O_CREAT)
    except OSError as error:
        raise RunFolderError(
            f"{lock} cannot be opened: {error.strerror or error}; remove it, or {elsewhere}"
        ) from error
    try:
        fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EAGAIN):
            os.close(handle)
            raise RunFolderError(taken) from error
    try:
        yield
    finally:
        os.close(handle)


def _elsewhere(path: Path) -> str:
    return f"Give the new run a folder of its own, --set run.dir=PATH, or remove {path}"


ABSENT = object()
"""Stands for the value of a key that a tree does not have."""


@attrs.frozen
class Difference:
    """A key whose value differs between two configuration trees."""

    key: str
    """Such as `mix.alpha`, or `mix[1].alpha` where several take turns."""
    there: Any
    """Its value in the first tree, or ABSENT."""
    now: Any
    """Its value in the second one."""

    def __str__(self) -> str:
        return f"{self.key} is {_shown(self.there)} there and {_shown(self.now)} now"


def differences(
    found: Mapping[str, Any], wanted: Mapping[str, Any], places: Collection[KeyPath] = ()
) -> list[Difference]:
    """Each key that the numbers depend on and that differs between two configuration trees, sorted by key.

    `places` are the keys of plugins' options that determine no number.
    """
    old, new = _flat(determining(found, places)), _flat(determining(wanted, places))
    return [
        Difference(key, old.get(key, ABSENT), new.get(key, ABSENT))
        for key in sorted(old.keys() | new.keys())
        if old.get(key, ABSENT) != new.get(key, ABSENT)
    ]


def _shown(value: Any) -> str:
    return "absent" if value is ABSENT else json.dumps(value, default=str)


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
