"""`--nproc N`: starts the processes of a run on this machine through torch's elastic launcher.

Each child runs the same command line and joins the others by the variables that the launcher sets. Children print no
error of their own: each leaves its outcome in a file, and the parent raises the first one.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mixcore.errors import ConfigError, MixcoreError
from mixcore.train.signals import stop_error

__all__ = ["is_child", "launch", "reported", "said_once"]

_OUTCOMES = "MIXCORE_OUTCOMES"
"""Environment variable: folder where children leave their outcomes."""


def is_child() -> bool:
    """Whether `launch` started this process."""
    return _OUTCOMES in os.environ


def launch(arguments: Sequence[str], processes: int, port: int | None, *, debug: bool = False) -> None:
    """Run `mixcore` with `arguments` in `processes` children; return when all have ended well.

    They meet at `port` of this machine, by default a free one. Raises ConfigError where the port is in use, and
    otherwise what the first child that failed raised, as a MixcoreError with that child's exit code; with `debug` its
    traceback is a note of the error.
    """
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    _check_port(port)
    _silence_the_launcher()
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // processes)))
    with tempfile.TemporaryDirectory(prefix="mixcore-") as folder:
        os.environ[_OUTCOMES] = folder
        config = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=processes,
            run_id="mixcore",
            rdzv_backend="c10d",
            rdzv_endpoint=f"127.0.0.1:{port or 0}",
            max_restarts=0,
            local_addr="127.0.0.1",
            logs_specs=DefaultLogsSpecs(log_dir=folder),
        )
        try:
            elastic_launch(config, sys.executable)("-m", "mixcore", *arguments)
        except ChildFailedError as error:
            raise _cause(error.failures, folder, debug) from None
        except SignalException as error:
            first = _first_outcome(folder)
            if first is not None:
                raise _as_error(first, debug) from None
            code = 130 if error.sigval == signal.SIGINT else 75
            raise stop_error(code, "before a checkpoint was written. Start again with the same command") from None
        finally:
            del os.environ[_OUTCOMES]


def _silence_the_launcher() -> None:
    """Torch's launcher reports every signal and failed child in words of its own; we say once what happened."""
    for name in [name for name in logging.root.manager.loggerDict if name.startswith("torch.distributed.elastic")]:
        logging.getLogger(name).setLevel(logging.CRITICAL)


def _check_port(port: int | None) -> None:
    if port is None:
        return
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise ConfigError(
                f"run.port = {port} cannot be used: {error.strerror}; remove it to have a free port chosen, or name "
                "another: --set run.port=PORT"
            ) from error


def _cause(failures: Mapping[int, Any], folder: str, debug: bool) -> MixcoreError:
    """What ended the run: an error of ours, else the death of a child, else the first error of any kind.

    A child that was killed makes the others fail with errors of the network, and SIGTERM is what the launcher itself
    sends to those that are left.
    """
    first = _first_outcome(folder)
    if first is None or not first["ours"]:
        for rank, failure in failures.items():
            if failure.exitcode < 0 and (first is None or failure.exitcode != -signal.SIGTERM):
                return _killed(rank, failure.exitcode)
    if first is None:
        rank, failure = next(iter(failures.items()))
        return _killed(rank, failure.exitcode)
    return _as_error(first, debug)


def _first_outcome(folder: str) -> dict[str, Any] | None:
    """What the first child that failed left behind."""
    outcomes: list[dict[str, Any]] = [json.loads(path.read_text()) for path in Path(folder).glob("rank-*.json")]
    return min(outcomes, key=lambda outcome: outcome["time"]) if outcomes else None


def _as_error(outcome: Mapping[str, Any], debug: bool) -> MixcoreError:
    error = MixcoreError(outcome["message"])
    error.exit_code = outcome["exit_code"]
    for note in [*outcome["notes"], *([outcome["traceback"]] if debug else [])]:
        error.add_note(note)
    return error


def _killed(rank: int, code: int) -> MixcoreError:
    how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
    hint = ", perhaps for lack of memory" if code == -signal.SIGKILL else ""
    return MixcoreError(
        f"process {rank} {how}{hint} and left no message; the others were stopped. Start again with the same command "
        "to go on from the last checkpoint"
    )


@contextmanager
def said_once(rank: int, *errors: type[MixcoreError]) -> Iterator[None]:
    """Under a foreign launcher: let rank 0 alone say those `errors` that every process meets alike."""
    try:
        yield
    except errors as error:
        if rank == 0 or is_child():
            raise
        raise SystemExit(error.exit_code) from None


@contextmanager
def reported(rank: int) -> Iterator[None]:
    """In a child of `launch`: leave an error to the parent and exit with its code. Elsewhere: nothing."""
    folder = os.environ.get(_OUTCOMES)
    if folder is None:
        yield
        return
    _die_with_parent()
    try:
        yield
    except (Exception, KeyboardInterrupt) as error:
        code = getattr(error, "exit_code", 130 if isinstance(error, KeyboardInterrupt) else 1)
        ours = isinstance(error, MixcoreError)
        outcome = {
            "time": time.time(),
            "ours": ours,
            "exit_code": code,
            "message": str(error) if ours else f"{type(error).__name__}: {error}",
            "notes": getattr(error, "__notes__", []),
            "traceback": traceback.format_exc(),
        }
        Path(folder, f"rank-{rank}.json").write_text(json.dumps(outcome))
        sys.stderr.flush()
        raise SystemExit(code) from None


def _die_with_parent() -> None:
    """On Linux, have the kernel end this process when its launcher dies: the next run must not find it writing."""
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(1, signal.SIGKILL, 0, 0, 0)  # PR_SET_PDEATHSIG
