"""What a job of the array does: it carries out one run, and is queued again where that was preempted."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

from submitit.core.job_environment import JobEnvironment
from submitit.helpers import DelayedSubmission

if TYPE_CHECKING:  # it comes pickled, and importing it from there would import torch
    from mixcore.api import RunJob

__all__ = ["PREEMPTED", "CarriedOut"]

PREEMPTED = 75
"""Exit code of a run that wrote a checkpoint and wants to be started again."""


class CarriedOut:
    """A run as submitit calls it; `checkpoint` is what it calls when Slurm preempts the job, or its time is up."""

    def __init__(self, run: RunJob) -> None:
        self.run = run
        self._process: subprocess.Popen[bytes] | None = None

    def __call__(self) -> int:
        """Carry the run out; gives its exit code."""
        process = self._process = self.run.start()
        _wait(process)
        code = process.wait()
        if code == PREEMPTED:
            _queue_again()
        return code

    def checkpoint(self) -> DelayedSubmission:
        """Let the run write its checkpoint, and say what to do when the job goes on: the same."""
        if self._process is not None:
            self._process.terminate()
            _wait(self._process)
        return DelayedSubmission(CarriedOut(self.run))


def _wait(process: subprocess.Popen[bytes]) -> None:
    """Until the process has ended; Popen's own wait would never return in a signal handler that interrupts it."""
    if sys.platform == "win32":
        process.wait()
    elif process.returncode is None:
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)


def _queue_again() -> None:
    """Tell submitit by its own signal, which ends this process; where it listens to none, return."""
    number = getattr(signal, f"SIG{JobEnvironment.USR_SIG}")
    if callable(signal.getsignal(number)):
        signal.raise_signal(number)
