"""The launcher of one machine."""

from __future__ import annotations

import os
import subprocess
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence

import attrs
import torch
from attrs.validators import gt

from mixcore.api import RunJob, hookimpl, threads_each

__all__ = ["Local"]

_POLL = 0.1
"""Seconds between two looks at the processes."""

Slot = Mapping[str, str]
"""Variables of the run that has the slot."""


@attrs.define(eq=False, kw_only=True)
class Local:
    """Runs on this machine: one process per CUDA device, or `--jobs` at a time; CPU threads divided among them."""

    role = "launcher"
    spec_version = (1, 3)

    grace: float = attrs.field(default=60.0, validator=gt(0))
    """Seconds that a run has for its checkpoint when the sweep is stopped; then it is killed."""

    @hookimpl
    def launch_runs(
        self,
        runs: Sequence[RunJob],
        jobs: int | None,
        report: Callable[[RunJob, int | None], None],
        wanted_stop: Callable[[], bool],
    ) -> None:
        waiting, free = deque(runs), _slots(runs, jobs)
        running: dict[RunJob, tuple[subprocess.Popen[bytes], Slot]] = {}
        stopped_at: float | None = None
        try:
            while running or (waiting and stopped_at is None):
                if stopped_at is None and wanted_stop():
                    stopped_at = time.monotonic()
                    for process, _ in running.values():
                        process.terminate()
                elif stopped_at is not None and time.monotonic() - stopped_at > self.grace:
                    return
                while stopped_at is None and waiting and free:
                    run, slot = waiting.popleft(), free.pop(0)
                    report(run, None)
                    running[run] = run.start(slot), slot
                time.sleep(_POLL)
                for run, (process, slot) in list(running.items()):
                    if process.poll() is not None:
                        del running[run]
                        free.append(slot)
                        report(run, process.returncode)
        finally:
            for process, _ in running.values():
                process.kill()
                process.wait()


def _slots(runs: Sequence[RunJob], jobs: int | None) -> list[Slot]:
    """The variables of as many runs as go at a time; devices are dealt in turn."""
    devices = [] if all(run.device == "cpu" for run in runs) else _devices()
    count = jobs or len(devices) or 1
    threads = {"OMP_NUM_THREADS": threads_each(count)}
    return [
        {**threads, "CUDA_VISIBLE_DEVICES": devices[slot % len(devices)]} if devices else threads
        for slot in range(count)
    ]


def _devices() -> list[str]:
    """The CUDA devices that this process may use, as CUDA_VISIBLE_DEVICES calls them."""
    count = torch.cuda.device_count()
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    return named.split(",")[:count] if named else [str(index) for index in range(count)]
