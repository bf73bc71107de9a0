"""The checkpoint to go on from, agreed on by all processes: a folder local to each machine may hold different ones."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Any

from mixcore.errors import CheckpointError
from mixcore.run.checkpoint import Checkpoints
from mixcore.train.agreement import Processes

__all__ = ["agreed_checkpoint"]


def agreed_checkpoint(
    checkpoints: Checkpoints, which: str | None, processes: Processes
) -> tuple[Path, dict[str, Any]] | None:
    """Path and state of the checkpoint `which`, by default the newest; None where no process has one.

    All processes call it and get the same name and iteration, or all raise CheckpointError: that of the checkpoint, or
    one that says what each of them found.
    """
    path, state, error = None, {}, None
    try:
        path = checkpoints.find(which)
        state = {} if path is None else checkpoints.read(path)
    except CheckpointError as caught:
        error = caught
    found = str(error) if error else "no checkpoint" if path is None else f"{path.name}, iteration {state['iteration']}"
    everyone = processes.gather((found, platform.node()))
    if any(other != found for other, _ in everyone):
        lines = "\n".join(f"  process {rank} on {host}: {other}" for rank, (other, host) in enumerate(everyone))
        raise CheckpointError(
            f"the processes find different checkpoints in {checkpoints.folder}:\n{lines}\nExpected one folder that all "
            "of them see: put run.dir on a file system that the machines share, or copy the newest checkpoint's folder "
            "to each of them"
        )
    if error is not None:
        raise error
    return None if path is None else (path, state)
