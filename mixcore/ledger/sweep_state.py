"""How far the runs of a sweep are, read from their folders."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, Literal, TypeAlias

import attrs

from mixcore.errors import PreemptedError, RunFolderError
from mixcore.ledger.sweep_plan import Plan, PlannedRun
from mixcore.logs.jsonl import read_records

__all__ = ["RunState", "Status", "SweepState"]

Status: TypeAlias = Literal["waiting", "running", "done", "preempted", "failed"]
_HEADLINES = {"val/top1": max, "val/mae": min}
"""Tag of what a run is measured by, and which of its values is best."""


@attrs.define(kw_only=True, eq=False)
class RunState:
    """One run: what its launcher said of it, and what its folder holds."""

    run: PlannedRun
    status: Status = "waiting"
    exit_code: int | None = None
    """What its process ended with, in this sweep; None where it did not end yet."""
    epoch: int = 0
    """Epochs that are recorded."""
    best: float | None = None
    """Best value of these."""
    summary: Mapping[str, Any] = attrs.field(factory=dict)
    """What it says of itself when it is done."""
    began: float | None = None
    """When its process started, by `time.monotonic()`."""
    first_epoch: int = 0
    """Epochs that were recorded then."""

    @property
    def epochs(self) -> int:
        """Length of the run."""
        return self.run.loaded.config.schedule.epochs

    def look(self) -> None:
        """Read what the folder says; files that are being written, or are damaged, say nothing yet."""
        try:
            records = read_records(self.run.folder.metrics)
            summary = self.run.folder.read_summary() if self.run.folder.summary.exists() else {}
        except (OSError, RunFolderError):
            return
        self.epoch = len(records)
        for tag, better in _HEADLINES.items():
            values = [value for record in records if isinstance(value := record.get(tag), int | float)]
            self.best = better(values) if values else self.best
        if summary and self.status != "running":
            self.summary, self.status = summary, "done"

    def left(self, now: float) -> float | None:
        """Seconds to its end at the pace of this process; None where there is no epoch to tell it by."""
        worked = self.epoch - self.first_epoch
        if self.began is None or self.status != "running" or worked <= 0:
            return None
        return (now - self.began) / worked * (self.epochs - self.epoch)


class SweepState:
    """All runs of a sweep."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.runs = {run.name: RunState(run=run) for run in plan.runs}
        for state in self.runs.values():
            state.look()
        self._began = time.monotonic()
        self._epochs_before = self._epochs_done()

    def report(self, name: str, code: int | None) -> None:
        """A run has started (None), or ended with an exit code of `mixcore run`."""
        state = self.runs[name]
        state.exit_code, state.status = code, "running"
        if code is None:
            state.look()
            state.began, state.first_epoch = time.monotonic(), state.epoch
            return
        state.status = "preempted" if code == PreemptedError.exit_code else "failed"
        state.look()

    def stopped(self) -> None:
        """The launcher is back: what was not reported to have ended is left for the next time."""
        for state in self.runs.values():
            if state.status == "running":
                state.status = "preempted"

    def look(self) -> None:
        """Read the folders of the runs that go."""
        for state in self.runs.values():
            if state.status == "running":
                state.look()

    def count(self, status: Status) -> int:
        """How many runs are in a state."""
        return sum(state.status == status for state in self.runs.values())

    def left(self) -> float | None:
        """Seconds to the end of the sweep at its pace so far, over all that goes at a time."""
        done = self._epochs_done()
        total = sum(state.epochs for state in self.runs.values() if state.status != "failed")
        if done <= self._epochs_before:
            return None
        return (time.monotonic() - self._began) / (done - self._epochs_before) * max(0, total - done)

    def _epochs_done(self) -> int:
        return sum(state.epoch for state in self.runs.values() if state.status != "failed")
