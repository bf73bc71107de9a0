"""The worker processes that read a data set: started, left alone by signals, and named when one of them dies."""

from __future__ import annotations

import atexit
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from types import FrameType
from typing import Any

import torch
from torch.utils.data import DataLoader

from mixcore.data.foreign import named
from mixcore.data.samples import Fetched, Key, KeyedSamples
from mixcore.errors import MixcoreError
from mixcore.rng import keyed_generator

__all__ = ["WorkerProcesses"]

_SECONDS_TO_DIE = 1.0
"""What a worker sent may be lost a moment before the worker is seen to be gone."""
_LIKELY_CAUSES = {
    "SIGKILL": ", perhaps for lack of memory",
    "SIGBUS": ", perhaps because /dev/shm is full",
}


class WorkerProcesses:
    """A DataLoader that is given the keys of each epoch anew, and whose workers may outlive the epoch."""

    def __init__(
        self, samples: KeyedSamples, where: str, *, workers: int, persistent: bool, device: torch.device
    ) -> None:
        self.what = f"{where} ({named(samples.dataset)})"
        self.keys = _Keys()
        self.started: list[BaseProcess] = []
        self.loader: DataLoader[Any] = DataLoader(
            samples,
            batch_sampler=self.keys,  # type: ignore[arg-type]  # only iterated
            num_workers=workers,
            persistent_workers=persistent,
            collate_fn=_unchanged,
            worker_init_fn=_SignalsLeftToTheRun(),
            pin_memory=device.type == "cuda",
            # Without one of its own the DataLoader draws its workers' base seed from the global generator.
            generator=keyed_generator("workers"),
        )

    def batches(self, keys: Iterator[list[Key]]) -> Iterator[Fetched]:
        """The batches of these keys. Raises MixcoreError where a worker died."""
        self.keys.batches = keys
        try:
            yield from self._start()
        except (RuntimeError, OSError, EOFError) as error:
            dead = self._dead()
            if dead is None:
                raise
            raise MixcoreError(
                f"a worker process that reads {self.what} {_end(dead)} and left no message; start again with the same "
                "command to go on from the last checkpoint, with data.workers = 0 to see where it fails"
            ) from error

    def _start(self) -> Iterator[Fetched]:
        before = multiprocessing.active_children()
        with _child_signals_as_they_were():
            iterator = iter(self.loader)
        started = [process for process in multiprocessing.active_children() if process not in before]
        self.started = started or self.started  # persistent ones are started once
        return iterator

    def _dead(self) -> BaseProcess | None:
        """A worker that has ended; one is given a moment for it."""
        ended = set(wait([process.sentinel for process in self.started], _SECONDS_TO_DIE))
        return next((process for process in self.started if process.sentinel in ended), None)


def _end(process: BaseProcess) -> str:
    process.join()
    code = process.exitcode or 0
    if code >= 0:
        return f"ended with exit code {code}"
    name = signal.Signals(-code).name
    return f"was killed by {name}{_LIKELY_CAUSES.get(name, '')}"


@contextmanager
def _child_signals_as_they_were() -> Iterator[None]:
    """Undo the SIGCHLD handler that torch sets when it starts workers.

    It raises from whatever code runs when a worker dies, which may take that for an error of its own. Whoever waits
    for a worker's batch sees its death anyway.
    """
    handler = signal.getsignal(signal.SIGCHLD) if hasattr(signal, "SIGCHLD") else None
    try:
        yield
    finally:
        if handler is not None and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGCHLD, handler)


def _unchanged(fetched: Any) -> Any:
    return fetched


class _SignalsLeftToTheRun:
    """For worker processes: signals to stop end them only once the run itself is ending.

    Schedulers and terminals signal workers too, and the run still needs them to reach its next checkpoint. When the
    run's process exits, `closing` is set before multiprocessing terminates the workers that are left and joins them.
    """

    def __init__(self) -> None:
        self.closing = multiprocessing.RawValue("b", 0)
        atexit.register(setattr, self.closing, "value", 1)

    def __call__(self, _worker: int) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._answer)

    def _answer(self, _number: int, _frame: FrameType | None) -> None:
        if self.closing.value:
            os._exit(0)


class _Keys:
    """The batch sampler of a DataLoader whose worker processes outlive an epoch: `batches` is set before each."""

    batches: Iterator[list[Key]] = iter(())

    def __iter__(self) -> Iterator[list[Key]]:
        return self.batches
