"""Python processes that mixcore starts: they see the modules that this process sees, but none of the working directory.

`python -m` would put the working directory first, so that a file there named like a library would run in its place.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path

__all__ = [
    "LAUNCH",
    "LAUNCHER",
    "child_environment",
    "die_with_launcher",
    "launch_folder",
    "python_module",
    "threads_each",
]

LAUNCH = "MIXCORE_LAUNCH"
"""Environment variable of the processes of one `--nproc`: the private folder that they share with their launcher."""
LAUNCHER = "MIXCORE_LAUNCHER"
"""Environment variable of these, and of the runs of a sweep: process number of who started them."""


def launch_folder() -> Path | None:
    """The folder that this process shares with its launcher; None where `--nproc` did not start it."""
    folder = os.environ.get(LAUNCH)
    return None if folder is None else Path(folder)


def python_module(module: str, *arguments: str) -> list[str]:
    """The command line that runs `module` in a child; to be started with `child_environment()`."""
    return [sys.executable, "-P", "-m", module, *arguments]


def child_environment(more: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment of a child, with `more` variables: it imports from where this process does.

    The working directory is left out unless PYTHONPATH names it, and so it is in processes that the child starts.
    """
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path and not _is_unasked(path)),
        "PYTHONSAFEPATH": "1",
        **(more or {}),
    }


def _is_unasked(path: str) -> bool:
    """Whether `path` is the working directory and nobody put it on PYTHONPATH by name."""
    asked = {os.path.realpath(named) for named in os.environ.get("PYTHONPATH", "").split(os.pathsep) if named}
    found = os.path.realpath(path)
    return found == os.path.realpath(os.curdir) and found not in asked


def threads_each(processes: int) -> str:
    """Value of OMP_NUM_THREADS for each of so many processes: what the environment says, else the CPUs divided."""
    return os.environ.get("OMP_NUM_THREADS") or str(max(1, (os.cpu_count() or 1) // processes))


def die_with_launcher() -> None:
    """On Linux, have the kernel end this process when who started it dies: the next run must not find it writing.

    Where nobody said that he would (the variable `LAUNCHER`), nothing is done. Processes that this one starts have
    parents of their own, so the variable goes.
    """
    launcher = os.environ.pop(LAUNCHER, None)
    if launcher is not None and sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL, 0, 0, 0)  # PR_SET_PDEATHSIG
        if str(os.getppid()) != launcher:  # it died before the kernel was told
            os._exit(1)
