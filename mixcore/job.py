"""A run of a sweep as a launcher gets it: everything that starting it takes, on this machine or on another.

Light: a process of a cluster that only starts the run and waits for it imports neither torch nor timm.
"""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path

import attrs

from mixcore.children import LAUNCHER, child_environment, python_module

__all__ = ["RunJob"]


@attrs.frozen(kw_only=True)
class RunJob:
    """One run to be carried out. It can be pickled; its paths are absolute, on a file system that all machines see.

    Its run folder keeps what it needs to go on: a job that was stopped is carried out once more, by the same call.
    """

    name: str
    """The run's name in its sweep, which is that of its folder."""
    config: Path
    """Its configuration, in its run folder."""
    directory: Path
    """Working directory that the paths in the configuration start from."""
    device: str = "auto"
    """What `[run] device` says: "auto", "cpu" or "cuda"."""

    @property
    def log(self) -> Path:
        """File in the run folder that takes what the process prints, below a line that says where and when it began."""
        return self.config.with_name("output.log")

    def log_size(self) -> int:
        """Bytes of the log: a run that was started somewhere else has begun when they are more than before."""
        return self.log.stat().st_size if self.log.exists() else 0

    def start(self, environment: Mapping[str, str] | None = None) -> subprocess.Popen[bytes]:
        """Start `mixcore run` in a process of its own, with further variables; the exit codes are that command's.

        The process is killed when the thread that started it ends, so that nothing trains on unseen (Linux). SIGTERM
        makes it write a checkpoint and end with 75. A terminal's Ctrl-C does not reach it.
        """
        variables = child_environment({LAUNCHER: str(os.getpid()), **(environment or {})})
        with self.log.open("ab") as log:
            log.write(f"[{platform.node()}, {datetime.now():%Y-%m-%d %H:%M:%S}]\n".encode())
            log.flush()
            return subprocess.Popen(
                python_module("mixcore", "run", str(self.config)),
                cwd=self.directory,
                env=variables,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
