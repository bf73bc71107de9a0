"""A sweep: its runs handed to a launcher, watched until they have ended, and summed up."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import attrs

from mixcore.hooks.calls import PluginCalls
from mixcore.job import RunJob
from mixcore.ledger.sweep_folder import SweepFolder
from mixcore.ledger.sweep_plan import Plan, PlannedRun
from mixcore.ledger.sweep_state import SweepState
from mixcore.run.signals import StopSignals

__all__ = ["Outcome", "run_sweep"]


@attrs.frozen(kw_only=True, eq=False)
class Outcome:
    """What became of a sweep."""

    state: SweepState
    summary: dict[str, Any]
    """As in summary.json."""
    stopped: int
    """Exit code that a signal asked for, 75 or 130; 0 where none came."""


def run_sweep(
    plan: Plan,
    launcher: PluginCalls,
    jobs: int | None,
    watched: Callable[[SweepState], AbstractContextManager[object]],
) -> Outcome:
    """Carry out the runs of `plan` that are not done, `jobs` at a time or as many as the launcher thinks right.

    `watched(state)` is entered while they go, to show them. SIGTERM and SIGINT stop the runs with a checkpoint. Raises
    RunFolderError for a folder of another sweep, or one that another process has; StorageError; and what a launcher
    raises, with the summary written.
    """
    folder = SweepFolder(plan.dir)
    with StopSignals() as signals:
        folder.check_owner(plan)
        with folder.held():
            state = SweepState(plan)
            waiting = [run for run in plan.runs if state.runs[run.name].status != "done"]
            for run in waiting:
                folder.prepare(run)
            folder.write(state)

            def report(job: RunJob, code: int | None) -> None:
                state.report(job.name, code)
                folder.write(state)

            try:
                if waiting:
                    with signals.deferred(), watched(state):
                        launcher.launch_runs(
                            runs=[_job(run) for run in waiting],
                            jobs=jobs,
                            report=report,
                            wanted_stop=lambda: bool(signals.code),
                        )
            finally:
                state.stopped()
                summary = folder.write(state)
            return Outcome(state=state, summary=summary, stopped=signals.code)


def _job(run: PlannedRun) -> RunJob:
    return RunJob(
        name=run.name,
        config=run.folder.config.absolute(),
        directory=Path.cwd(),
        device=run.loaded.config.run.device,
    )
