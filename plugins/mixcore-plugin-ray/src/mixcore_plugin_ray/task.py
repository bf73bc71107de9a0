"""What a task of the cluster does: it carries out one run, and fails where that was preempted, to be tried again."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:  # it comes pickled, and importing it from there would import torch
    from mixcore.api import RunJob

__all__ = ["PREEMPTED", "RunPreemptedError", "carry_out"]

PREEMPTED = 75
"""Exit code of a run that wrote a checkpoint and wants to be started again."""


class RunPreemptedError(Exception):
    """A run wrote a checkpoint and ended, to go on later or elsewhere."""


def carry_out(run: RunJob) -> int:
    """Carry the run out; gives its exit code. Cancelled, the run writes its checkpoint first."""
    process = run.start()
    try:
        code = process.wait()
    except BaseException:  # KeyboardInterrupt is how Ray cancels a task
        process.terminate()
        process.wait()
        raise
    if code == PREEMPTED:
        raise RunPreemptedError(run.name)
    return code
