"""`--nproc N`: starts the processes of a run on this machine, watches them, and says what ended them.

Each child runs the same command line and finds the others through a file in a folder that only this user can enter;
what they then exchange stays on the loopback interface. So nothing listens to the network. Children print no error of
their own: each leaves its outcome in the folder, and the parent raises the first one.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from mixcore.children import (
    LAUNCH,
    LAUNCHER,
    child_environment,
    die_with_launcher,
    launch_folder,
    python_module,
    threads_each,
)
from mixcore.errors import ConfigError, MixcoreError
from mixcore.run.signals import StopSignals, idle_error

__all__ = ["is_child", "launch", "loopback", "raised_on_rank_zero", "reported"]

_GRACE = 30.0
"""Seconds that the other processes have to end by themselves after one has failed."""
_POLL = 0.05
"""Seconds between two looks at the children."""


def is_child() -> bool:
    """Whether `launch` started this process."""
    return launch_folder() is not None


def launch(arguments: Sequence[str], processes: int, *, debug: bool = False) -> None:
    """Run `mixcore` with `arguments` in `processes` children; return when all have ended well.

    SIGTERM and SIGINT are handed on to the children, which take the time that their checkpoint takes. Raises
    ConfigError where this machine has no loopback interface, and otherwise what the first child that failed raised, as
    a MixcoreError with that child's exit code; with `debug` its traceback is a note of the error.
    """
    interface = loopback()
    with StopSignals() as signals, signals.deferred(), tempfile.TemporaryDirectory(prefix="mixcore-") as folder:
        shared = {
            LAUNCH: folder,
            LAUNCHER: str(os.getpid()),
            "WORLD_SIZE": str(processes),
            "LOCAL_WORLD_SIZE": str(processes),
            "GLOO_SOCKET_IFNAME": interface,
            "NCCL_SOCKET_IFNAME": f"={interface}",  # "=": this name, and not all that begin with it
            "OMP_NUM_THREADS": threads_each(processes),
        }
        failed = _run_children(arguments, processes, shared, signals)
        if failed:
            raise _cause(failed, folder, signals.code, debug)


def loopback() -> str:
    """Name of the interface through which processes of one machine reach each other and nobody else."""
    names = [name for _, name in socket.if_nameindex()]
    found = next((name for name in ("lo", "lo0") if name in names), None)
    if found is None:
        raise ConfigError(
            f"--nproc lets its processes meet on the loopback interface, lo or lo0; this machine has "
            f"{', '.join(names) or 'no interface'}. Start the processes with torchrun instead"
        )
    return found


def _run_children(
    arguments: Sequence[str], processes: int, shared: Mapping[str, str], signals: StopSignals
) -> dict[int, int]:
    """Exit codes by rank of the children that failed first; empty where all ended well. None runs on."""
    children: list[subprocess.Popen[bytes]] = []
    try:
        for rank in range(processes):
            environment = child_environment({**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)})
            # a session of its own, so that a terminal's Ctrl-C arrives once, from here, and its workers end with it
            command = python_module("mixcore", *arguments)
            children.append(subprocess.Popen(command, env=environment, start_new_session=True))
        failed = _wait(children, Path(shared[LAUNCH]), signals)
        if failed:
            _terminate(children)
        return failed
    finally:
        for child in children:
            with suppress(ProcessLookupError, PermissionError):  # nothing of it is left
                os.killpg(child.pid, signal.SIGKILL)
            child.wait()


def _wait(children: Sequence[subprocess.Popen[bytes]], folder: Path, signals: StopSignals) -> dict[int, int]:
    """Return when all children have ended, or some have failed: their exit codes by rank."""
    told = False
    while True:
        codes = {rank: code for rank, child in enumerate(children) if (code := child.poll()) is not None}
        failed = {rank: code for rank, code in codes.items() if code or not _done_mark(folder, rank).exists()}
        if failed or len(codes) == len(children):
            return failed
        if signals.code and not told:
            told = True
            for child in children:
                child.send_signal(signal.SIGINT if signals.code == 130 else signal.SIGTERM)
        time.sleep(_POLL)


def _terminate(children: Sequence[subprocess.Popen[bytes]]) -> None:
    """Ask the children that are left to end, and wait a while for it."""
    for child in children:
        child.terminate()
    deadline = time.monotonic() + _GRACE
    for child in children:
        with suppress(subprocess.TimeoutExpired):
            child.wait(max(0.0, deadline - time.monotonic()))


def _done_mark(folder: Path, rank: int) -> Path:
    """A file that a child leaves when its run has come to its end: an exit code of 0 alone does not tell."""
    return folder / f"done-{rank}"


def _cause(failed: Mapping[int, int], folder: str, stopped: int, debug: bool) -> MixcoreError:
    """What ended the run: an error of ours, else the end of a child without a word, else the first error of any kind.

    A child that is gone makes the others fail with errors of the network. `failed` has exit codes by rank, `stopped`
    the code of a signal that was handed on, or 0.
    """
    outcomes: list[dict[str, Any]] = [json.loads(path.read_text()) for path in Path(folder).glob("rank-*.json")]
    ours = [outcome for outcome in outcomes if outcome["ours"]]
    silent = {rank: code for rank, code in failed.items() if not _outcome(folder, rank).exists()}
    if silent and not ours:
        return _silent_end(silent, stopped)
    return _as_error(min(ours or outcomes, key=lambda outcome: outcome["time"]), debug)


def _outcome(folder: str | Path, rank: int) -> Path:
    return Path(folder, f"rank-{rank}.json")


def _as_error(outcome: Mapping[str, Any], debug: bool) -> MixcoreError:
    error = MixcoreError(outcome["message"])
    error.exit_code = outcome["exit_code"]
    for note in [*outcome["notes"], *([outcome["traceback"]] if debug else [])]:
        error.add_note(note)
    return error


def _silent_end(codes: Mapping[int, int], stopped: int) -> MixcoreError:
    """The error for children that left no message; a signal ends one so before its run has begun."""
    by_signal = {75: 75, 130: 130, -signal.SIGTERM: stopped, -signal.SIGINT: stopped}
    rank, code = next(((rank, code) for rank, code in codes.items() if not by_signal.get(code)), (-1, 0))
    if rank < 0:
        return idle_error(stopped or max(by_signal[code] for code in codes.values()))
    how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
    how += "" if code else " before the run was done"
    hint = ", perhaps for lack of memory" if code == -signal.SIGKILL else ""
    return MixcoreError(
        f"process {rank} {how}{hint} and left no message; the others were stopped. Start again with the same command "
        "to go on from the last checkpoint"
    )


class _SaidByRank0(SystemExit):
    """The exit of a process whose error another one says."""


@contextmanager
def raised_on_rank_zero(rank: int, *errors: type[MixcoreError]) -> Iterator[None]:
    """Under a foreign launcher: let rank 0 alone say those `errors` that every process meets alike."""
    try:
        yield
    except errors as error:
        if rank == 0 or is_child():
            raise
        raise _SaidByRank0(error.exit_code) from None


@contextmanager
def reported(rank: int) -> Iterator[None]:
    """In a child of `launch`: leave an error, or the mark that all is done, to the parent. Elsewhere errors pass.

    A SystemExit that some other code raised is an error too: a run never ends well because a library called sys.exit.
    """
    die_with_launcher()
    folder = launch_folder()
    if folder is None:
        with _no_way_out():
            yield
        return
    try:
        with _no_way_out():
            yield
        _done_mark(folder, rank).touch()
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
        waiting = folder / f"rank-{rank}.tmp"
        waiting.write_text(json.dumps(outcome))
        waiting.replace(_outcome(folder, rank))
        sys.stderr.flush()
        raise SystemExit(code) from None


@contextmanager
def _no_way_out() -> Iterator[None]:
    try:
        yield
    except _SaidByRank0:
        raise
    except SystemExit as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        raise MixcoreError(
            f"{place.filename}, line {place.lineno}, called for the end of the process, SystemExit({error.code!r}), "
            "before the run was done. Start again with the same command to go on from the last checkpoint"
        ) from error
