"""The launcher: a task per run, as many at a time as the cluster has room for."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import attrs
import ray
from attrs.validators import ge
from ray.exceptions import RayError, RayTaskError, TaskCancelledError

from mixcore.api import ConfigError, RunJob, hookimpl
from mixcore_plugin_ray.task import PREEMPTED, RunPreemptedError, carry_out

__all__ = ["Ray"]

_POLL = 0.5
"""Seconds between two looks at the tasks."""


@attrs.define(eq=False, kw_only=True)
class Ray:
    """Runs as tasks of a Ray cluster; one whose node is lost, or that is preempted, goes on elsewhere."""

    role = "launcher"
    spec_version = (1, 3)

    address: str = "auto"
    """Address of the cluster, such as "10.0.0.1:6379"; "auto": the one that this machine belongs to."""
    num_cpus: float = attrs.field(default=1.0, validator=ge(0))
    """CPU cores that a run takes up; OMP_NUM_THREADS follows, where it is not set."""
    num_gpus: float = attrs.field(default=0.0, validator=ge(0))
    """GPUs that a run takes up; a fraction lets several share one."""
    retries: int = attrs.field(default=-1, validator=ge(-1))
    """How often a run is tried again after a lost node or exit code 75; -1: without end."""
    grace: float = attrs.field(default=60.0, validator=ge(0))
    """Seconds that runs have for their checkpoints when the sweep is stopped."""

    @hookimpl
    def launch_runs(
        self,
        runs: Sequence[RunJob],
        jobs: int | None,
        report: Callable[[RunJob, int | None], None],
        wanted_stop: Callable[[], bool],
    ) -> None:
        with _connected(self.address):
            _Tasks(self, report).go(deque(runs), jobs or len(runs), wanted_stop)


class _Tasks:
    """The tasks of one sweep."""

    def __init__(self, launcher: Ray, report: Callable[[RunJob, int | None], None]) -> None:
        self._grace, self._report = launcher.grace, report
        self._task = ray.remote(carry_out).options(
            num_cpus=launcher.num_cpus,
            num_gpus=launcher.num_gpus,
            max_retries=launcher.retries,
            retry_exceptions=[RunPreemptedError],
        )
        self._going: dict[ray.ObjectRef[int], RunJob] = {}
        self._before: dict[RunJob, int] = {}
        """Size of the log of each run that has not begun yet."""

    def go(self, waiting: deque[RunJob], jobs: int, wanted_stop: Callable[[], bool]) -> None:
        """Submit and follow them, until all have ended or the sweep is asked to stop."""
        while (waiting or self._going) and not wanted_stop():
            while waiting and len(self._going) < jobs:
                run = waiting.popleft()
                self._before[run] = run.log_size()
                self._going[self._task.remote(run)] = run
            self._look(_POLL)
        for ref in self._going:
            ray.cancel(ref)
        if self._going:
            ray.wait(list(self._going), num_returns=len(self._going), timeout=self._grace)
            self._look(0.0)

    def _look(self, seconds: float) -> None:
        """Wait so long for a task to end, and report what has begun and ended."""
        ended, _ = ray.wait(list(self._going), num_returns=1, timeout=seconds)
        for run, before in list(self._before.items()):
            if run.log_size() > before:
                self._begin(run)
        for ref in ended:
            run = self._going.pop(ref)
            if run in self._before:
                self._begin(run)
            self._report(run, _exit_code(run, ref))

    def _begin(self, run: RunJob) -> None:
        del self._before[run]
        self._report(run, None)


def _exit_code(run: RunJob, ref: ray.ObjectRef[int]) -> int:
    """What the run ended with; 1 for a task that failed, with the reason in the run's log."""
    try:
        code: int = ray.get(ref)
        return code
    except TaskCancelledError:
        return PREEMPTED
    except RayError as error:
        with run.log.open("a") as log:
            log.write(f"{type(error).__name__}: {error}\n")
        failed = isinstance(error, RayTaskError) and not isinstance(error.cause, RunPreemptedError)
        # else lost with its node, or preempted, more often than it is tried again: its checkpoint is there
        return 1 if failed else PREEMPTED


@contextmanager
def _connected(address: str) -> Iterator[None]:
    """Connected to the cluster while inside; a connection that was there before stays."""
    if ray.is_initialized():
        yield
        return
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.WARNING, configure_logging=False)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise ConfigError(
            f"[launcher] of a sweep, ray: no cluster at {address!r} ({error}). Start one with ray start --head on one "
            'machine and ray start --address=... on the others, or name one: address = "HOST:6379"'
        ) from error
    try:
        yield
    finally:
        ray.shutdown()
