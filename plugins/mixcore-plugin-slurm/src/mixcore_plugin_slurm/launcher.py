"""The launcher: an array of jobs is submitted, and followed to its end."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import attrs
import submitit
from attrs.validators import ge, gt, optional
from submitit.core.utils import FailedJobError, UncompletedJobError

from mixcore.api import ConfigError, RunJob, hookimpl
from mixcore_plugin_slurm.task import CarriedOut

__all__ = ["Slurm"]

_POLL = {"slurm": 10.0, "local": 0.2, "debug": 0.0}
"""Seconds between two looks at the jobs."""
_GOING = ("PENDING", "RUNNING", "REQUEUED", "CONFIGURING", "COMPLETING", "SUSPENDED", "RESIZING")
"""States in which Slurm will still do something about a job."""


@attrs.define(eq=False, kw_only=True)
class Slurm:
    """Runs as one array of Slurm jobs; a preempted one is queued again. The jobs outlive the sweep's own process."""

    role = "launcher"
    spec_version = (1, 3)

    cluster: Literal["slurm", "local", "debug"] = "slurm"
    """Where submitit takes the jobs: "local" and "debug" try all of it on this machine, side by side or in turn."""
    timeout_min: int = attrs.field(default=240, validator=gt(0))
    """Minutes that a job may take; a run that needs longer writes a checkpoint and is queued again."""
    max_timeouts: int = attrs.field(default=10, validator=ge(0))
    """How often a job is queued again because its time was up."""
    cpus_per_task: int = attrs.field(default=4, validator=gt(0))
    """CPU cores of a run."""
    gpus_per_node: int = attrs.field(default=1, validator=ge(0))
    """GPUs of a run."""
    mem_gb: float | None = attrs.field(default=None, validator=optional(gt(0)))
    """Memory of a run in GiB; absent: what the cluster gives."""
    partition: str | None = None
    """Partition of the cluster."""
    account: str | None = None
    """Account that is charged."""
    parameters: dict[str, Any] = attrs.field(factory=dict)
    """Further parameters of submitit, such as { slurm_constraint = "a100", slurm_setup = ["module load cuda"] }."""

    @hookimpl
    def launch_runs(
        self,
        runs: Sequence[RunJob],
        jobs: int | None,
        report: Callable[[RunJob, int | None], None],
        wanted_stop: Callable[[], bool],
    ) -> None:
        folder = runs[0].config.parent.parent / "submitit"
        left = {run: (job, run.log_size()) for run, job in self._submitted(runs, jobs, folder)}
        begun: set[RunJob] = set()
        while left:
            if wanted_stop():
                if self.cluster == "local":
                    for job, _ in left.values():
                        job.cancel(check=False)
                return
            for run, (job, before) in list(left.items()):
                done = job.done()
                if run not in begun and (done or run.log_size() > before):
                    begun.add(run)
                    report(run, None)
                if done:
                    del left[run]
                    report(run, _exit_code(run, job))
            time.sleep(_POLL[self.cluster] if left else 0)

    def _submitted(
        self, runs: Sequence[RunJob], jobs: int | None, folder: Path
    ) -> Iterator[tuple[RunJob, submitit.Job[int]]]:
        """Each run with its job: one that an earlier process of the sweep submitted and still goes, or a new one."""
        known = _known_jobs(folder) if self.cluster == "slurm" else {}
        going = {run: job for run in runs if (job := known.get(run.name)) is not None and _goes(job)}
        new = [run for run in runs if run not in going]
        submitted = dict(zip(new, self._submit(new, jobs, folder), strict=True))
        everyone = going | submitted
        (folder / "jobs.json").write_text(json.dumps({run.name: job.job_id for run, job in everyone.items()}))
        yield from everyone.items()

    def _submit(self, runs: Sequence[RunJob], jobs: int | None, folder: Path) -> list[submitit.Job[int]]:
        folder.mkdir(exist_ok=True)
        if not runs:
            return []
        try:
            executor = submitit.AutoExecutor(
                folder / "%j", cluster=self.cluster, slurm_max_num_timeout=self.max_timeouts
            )
            executor.update_parameters(**self._parameters(jobs))
        except (RuntimeError, ValueError, NameError, TypeError) as error:
            raise ConfigError(f"[launcher] of a sweep, slurm: submitit refuses: {error}") from error
        with executor.batch():
            return [executor.submit(CarriedOut(run)) for run in runs]

    def _parameters(self, jobs: int | None) -> Mapping[str, Any]:
        given = {
            "mem_gb": self.mem_gb,
            "slurm_array_parallelism": jobs,
            "slurm_partition": self.partition,
            "slurm_account": self.account,
        }
        return {
            "name": "mixcore",
            "timeout_min": self.timeout_min,
            "cpus_per_task": self.cpus_per_task,
            "gpus_per_node": self.gpus_per_node,
            **{key: value for key, value in given.items() if value is not None},
            **self.parameters,
        }


def _known_jobs(folder: Path) -> dict[str, submitit.SlurmJob[int]]:
    """Name of a run -> the job that was last submitted for it."""
    try:
        known = json.loads((folder / "jobs.json").read_text())
        return {name: submitit.SlurmJob(folder / "%j", job_id) for name, job_id in known.items()}
    except (OSError, ValueError, AttributeError):
        return {}


def _goes(job: submitit.SlurmJob[int]) -> bool:
    """Whether Slurm still has the job in its queue, or on a node."""
    state = job.watcher.get_state(job.job_id, mode="force").upper()
    return state.startswith(_GOING) and not job.paths.result_pickle.exists()


def _exit_code(run: RunJob, job: submitit.Job[int]) -> int:
    """What the run ended with; 1 for a job that Slurm ended, with the reason in the run's log."""
    try:
        return job.result()
    except (FailedJobError, UncompletedJobError) as error:
        with run.log.open("a") as log:
            log.write(f"job {job.job_id}: {error}\n")
        return 1
