"""Checkpoint files: last.pt, previous.pt, best.pt, epoch-<n>.pt, of tensors and plain types only.

format, digest, config (TOML text), versions {plugin: distribution and version}, spec_version,
epoch (finished epochs), step (model and parts), ema; and, in last.pt and previous.pt,
iteration (finished iterations of the whole run), iterations_per_epoch, updates (optimizer steps that took place),
seconds, best {epoch, value} or None, records (the lines of metrics.jsonl), totals (running sums of the open epoch, per
process), data (fingerprints of the data sets), optimizer, scaler

Each file is sealed with a checksum (mixcore/run/seal.py). What is read is not believed: docs/checkpoints.md.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import attrs
import tomli

from mixcore.config.faults import Path as KeyPath
from mixcore.errors import CheckpointError
from mixcore.files import replace_file
from mixcore.hooks.version import SPEC_VERSION
from mixcore.run import saved
from mixcore.run.content import FOR_RESUMING, misfits_for_evaluation, misfits_for_resuming
from mixcore.run.folder import differences
from mixcore.run.seal import read_sealed, write_sealed

__all__ = ["FORMAT", "Checkpoints", "read_checkpoint"]

FORMAT = 2
"""Raised when older checkpoints can no longer be read."""


@attrs.frozen(kw_only=True)
class Checkpoints:
    """The checkpoints of one run, stamped with its configuration and the versions of its plugins."""

    folder: Path
    digest: str
    """Hash of all of the configuration that determines numbers."""
    config: str
    """The resolved configuration as TOML text."""
    versions: Mapping[str, str]
    places: Collection[KeyPath] = ()
    """Keys of plugins' options that determine no number."""

    @property
    def last(self) -> Path:
        """The newest."""
        return saved.path_of(self.folder, "last")

    @property
    def previous(self) -> Path:
        """The one before the newest."""
        return saved.path_of(self.folder, "previous")

    @property
    def best(self) -> Path:
        """The epoch with the best validation value; weights only, not for resuming."""
        return saved.path_of(self.folder, "best")

    def write(self, state: Mapping[str, Any]) -> None:
        """Make `state` the newest checkpoint; the newest so far becomes the previous one.

        Killed at any instant, at least one of the two is whole. Raises StorageError, with both as they were.
        """
        waiting = self.folder / "next.pt"
        self._save(waiting, state)
        if self.last.exists():
            os.replace(self.last, self.previous)
        os.replace(waiting, self.last)

    def of_epoch(self, epoch: int) -> Path:
        """The weights after so many epochs, not for resuming; only those that [run] keep_every asks for are kept."""
        return self.folder / f"epoch-{epoch}.pt"

    def write_weights(self, path: Path, state: Mapping[str, Any]) -> None:
        """Keep the weights in `state` as `path`, for evaluation. Raises StorageError."""
        self._save(path, {key: value for key, value in state.items() if key not in FOR_RESUMING})

    def _save(self, path: Path, state: Mapping[str, Any]) -> None:
        stamp = {
            "format": FORMAT,
            "digest": self.digest,
            "config": self.config,
            "versions": dict(self.versions),
            "spec_version": list(SPEC_VERSION),
        }
        replace_file(path, lambda file: write_sealed(file, {**stamp, **state}))

    def find(self, which: str | None = None) -> Path | None:
        """The checkpoint to go on from: `which` of "last" and "previous", by default the newest; None where none is.

        Asking for one that does not exist raises CheckpointError.
        """
        if which is None:
            return saved.newest(self.folder)
        path = saved.path_of(self.folder, which)
        if not path.exists():
            there = ", ".join(found.name for found in (self.last, self.previous) if found.exists()) or "none"
            raise CheckpointError(
                f"{path} does not exist; found {there}. Leave out --resume-from to go on from the newest checkpoint, "
                "or to start anew where there is none"
            )
        return path

    def read(self, path: Path) -> dict[str, Any]:
        """The state in `path`, on the CPU. Raises CheckpointError if it is unreadable or of another configuration."""
        with self.offering_a_way_out(path):
            state = read_checkpoint(path)
            faults = misfits_for_resuming(state)
            if faults and not state.keys() & FOR_RESUMING.keys():
                raise CheckpointError(f"{path} holds weights to evaluate, as best.pt does, and nothing to go on from")
            if faults:
                raise CheckpointError(f"{path} cannot be gone on from: {_named(faults)} in it")
            found = _configuration(path, state)
        if state["digest"] != self.digest:
            changed = differences(found, tomli.loads(self.config), self.places)
            lines = (
                "\n".join(f"  {line}" for line in changed) or "  (a default that changed between versions of mixcore)"
            )
            raise CheckpointError(
                f"{path} was written under another configuration:\n{lines}\nGo back to that configuration, or start a "
                "new run in a folder of its own: --set run.dir=PATH"
            )
        self._compare_versions(state["versions"])
        return state

    @contextmanager
    def offering_a_way_out(self, path: Path) -> Iterator[None]:
        """Around whatever refuses the content of `path`: a CheckpointError also says what to type next."""
        try:
            yield
        except CheckpointError as error:
            raise CheckpointError(f"{error}. {self._way_out(path)}") from error

    def promote_previous(self) -> None:
        """Give up last.pt for previous.pt, so that writing the next one cannot lose the good one."""
        if self.previous.exists():
            os.replace(self.previous, self.last)

    def _way_out(self, path: Path) -> str:
        if path == self.last and self.previous.exists():
            return f"{self.previous} is there: add --resume-from previous to go on from it"
        return f"Remove {self.folder.parent} to start anew, or use another folder: --set run.dir=PATH"

    def _compare_versions(self, written: Mapping[str, str]) -> None:
        for name, version in self.versions.items():
            if written.get(name, version) != version:
                logging.getLogger("mixcore").warning(
                    "the checkpoint was written with %s from %s; going on with %s", name, written[name], version
                )


def read_checkpoint(path: Path) -> dict[str, Any]:
    """The content of a checkpoint, on the CPU: at least its weights and what they are of.

    Raises CheckpointError where it is missing, unreadable, damaged, of another format, or holds something else.
    """
    state = read_sealed(path)
    found = state.get("format") if isinstance(state, dict) else None
    if not isinstance(state, dict) or type(found) is not int or found != FORMAT:
        raise CheckpointError(
            f"{path} is no checkpoint of this version of mixcore: format {str(found)[:20]}, expected {FORMAT}"
        )
    faults = misfits_for_evaluation(state)
    if faults:
        raise CheckpointError(f"{path} is no readable checkpoint: {_named(faults)} in it")
    return state


def _configuration(path: Path, state: Mapping[str, Any]) -> dict[str, Any]:
    try:
        return tomli.loads(state["config"])
    except (tomli.TOMLDecodeError, RecursionError) as error:
        raise CheckpointError(f"{path} cannot be gone on from: the configuration in it is not TOML") from error


def _named(faults: list[str]) -> str:
    return f"{', '.join(faults)} {'is' if len(faults) == 1 else 'are'} missing or not what it should be"
