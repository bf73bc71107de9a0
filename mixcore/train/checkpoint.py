"""Checkpoint files: last.pt, previous.pt, best.pt, of tensors and plain types only.

format, digest, config (TOML text), versions {plugin: distribution and version}, spec_version,
epoch (finished epochs), iteration (finished iterations of the whole run), updates (optimizer steps that took
place), seconds, totals (running sums of the open epoch, per process), best {epoch, value} or None,
step (model and parts), ema, and, but for best.pt, optimizer and scaler
"""

from __future__ import annotations

import logging
import os
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs
import tomli
import torch

from mixcore.errors import CheckpointError
from mixcore.hooks.version import SPEC_VERSION
from mixcore.train.folder import differences, replace_file

__all__ = ["FORMAT", "Checkpoints", "read_checkpoint"]

FORMAT = 1
"""Raised when older checkpoints can no longer be read."""

_FOR_RESUMING = ("optimizer", "scaler", "totals")


@attrs.frozen(kw_only=True)
class Checkpoints:
    """The checkpoints of one run, stamped with its configuration and the versions of its plugins."""

    folder: Path
    digest: str
    """Hash of all of the configuration that determines numbers."""
    config: str
    """The resolved configuration as TOML text."""
    versions: Mapping[str, str]

    @property
    def last(self) -> Path:
        """The newest."""
        return self.folder / "last.pt"

    @property
    def previous(self) -> Path:
        """The one before the newest."""
        return self.folder / "previous.pt"

    @property
    def best(self) -> Path:
        """The epoch with the best validation value; weights only, not for resuming."""
        return self.folder / "best.pt"

    def write(self, state: Mapping[str, Any]) -> None:
        """Make `state` the newest checkpoint; the newest so far becomes the previous one.

        Killed at any instant, at least one of the two is whole. Raises StorageError, with both as they were.
        """
        waiting = self.folder / "next.pt"
        self._save(waiting, state)
        if self.last.exists():
            os.replace(self.last, self.previous)
        os.replace(waiting, self.last)

    def write_best(self, state: Mapping[str, Any]) -> None:
        """Keep the weights in `state` as best.pt. Raises StorageError."""
        self._save(self.best, {key: value for key, value in state.items() if key not in _FOR_RESUMING})

    def _save(self, path: Path, state: Mapping[str, Any]) -> None:
        stamp = {
            "format": FORMAT,
            "digest": self.digest,
            "config": self.config,
            "versions": dict(self.versions),
            "spec_version": list(SPEC_VERSION),
        }
        replace_file(path, lambda file: torch.save({**stamp, **state}, file))

    def find(self, which: str | None = None) -> Path | None:
        """The checkpoint to go on from: `which` of "last" and "previous", by default the newest; None where none is.

        Asking for one that does not exist raises CheckpointError.
        """
        if which is None:
            # a run killed between the two renames of write() has no last.pt for that instant
            return next((path for path in (self.last, self.previous) if path.exists()), None)
        path = self.folder / f"{which}.pt"
        if not path.exists():
            there = ", ".join(found.name for found in (self.last, self.previous) if found.exists()) or "none"
            raise CheckpointError(
                f"{path} does not exist; found {there}. Leave out --resume-from to go on from the newest checkpoint, "
                "or to start anew where there is none"
            )
        return path

    def read(self, path: Path) -> dict[str, Any]:
        """The state in `path`, on the CPU. Raises CheckpointError if it is unreadable or of another configuration."""
        try:
            state = read_checkpoint(path)
        except CheckpointError as error:
            raise CheckpointError(f"{error}. {self._way_out(path)}") from error
        if state["digest"] != self.digest:
            changed = differences(tomli.loads(state["config"]), tomli.loads(self.config))
            lines = (
                "\n".join(f"  {line}" for line in changed) or "  (a default that changed between versions of mixcore)"
            )
            raise CheckpointError(
                f"{path} was written under another configuration:\n{lines}\nGo back to that configuration, or start a "
                "new run in a folder of its own: --set run.dir=PATH"
            )
        self._compare_versions(state["versions"])
        return state

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
    """The content of a checkpoint, on the CPU. Raises CheckpointError where it is missing or unreadable."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, EOFError, RuntimeError, ValueError, KeyError, pickle.UnpicklingError) as error:
        reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise CheckpointError(f"{path} is no readable checkpoint: it is truncated or damaged ({reason})") from error
    found = state.get("format") if isinstance(state, dict) else None
    if found != FORMAT:
        raise CheckpointError(f"{path} is no checkpoint of this version of mixcore: format {found}, expected {FORMAT}")
    return state
