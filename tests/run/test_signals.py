"""SIGTERM and SIGINT: what is raised at once, what waits."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import suppress

import pytest
import torch

from mixcore.data.loader import build_train_loader
from mixcore.errors import InterruptedRunError
from mixcore.run.signals import StopSignals, leaving_at_once, stop_error
from mixcore.types import Data, Task


def send(*numbers: signal.Signals) -> None:
    for number in numbers:
        os.kill(os.getpid(), number)


@pytest.fixture
def usual_interrupt() -> Iterator[None]:
    """Python's own answer to SIGINT, also where the tests were started in the background, which ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("usual_interrupt")
def test_outside_training_a_signal_goes_to_whoever_handled_it_before() -> None:
    with StopSignals() as signals, pytest.raises(KeyboardInterrupt):
        send(signal.SIGINT)
    assert signals.code == 0


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 75), (signal.SIGINT, 130)])
def test_while_training_a_signal_is_remembered(number: signal.Signals, code: int) -> None:
    with StopSignals() as signals, signals.deferred():
        assert signals.code == 0
        send(number)
        assert signals.code == code


@pytest.mark.parametrize(
    ("numbers", "raised"),
    [
        ((signal.SIGINT, signal.SIGINT), True),
        ((signal.SIGINT, signal.SIGTERM), True),
        ((signal.SIGTERM, signal.SIGINT), True),
        ((signal.SIGTERM, signal.SIGTERM), False),
    ],
)
def test_a_second_signal_waits_only_when_a_launcher_repeats_itself(
    numbers: tuple[signal.Signals, ...], raised: bool
) -> None:
    def stopped_twice() -> None:
        with StopSignals() as signals, signals.deferred():
            send(numbers[0])
            try:
                send(numbers[1])
            except Exception:
                pytest.fail("a signal was taken for an error of the code that it interrupted")

    if raised:
        with pytest.raises(InterruptedRunError, match="at once"):
            stopped_twice()
    else:
        stopped_twice()


def test_an_interrupt_that_some_code_swallowed_is_still_known() -> None:
    with StopSignals() as signals, signals.deferred():
        send(signal.SIGINT)
        with suppress(BaseException):
            send(signal.SIGINT)
        assert signals.code == 130


class Numbers(torch.utils.data.Dataset[tuple[torch.Tensor, int]]):
    def __len__(self) -> int:
        return 12

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return torch.full((1, 2, 2), index, dtype=torch.uint8), index % 2


def test_data_workers_outlive_a_signal_to_the_whole_group() -> None:
    task = Task(num_classes=2, in_channels=1, image_size=(2, 2), mean=(0.0,), std=(1.0,))
    loader = build_train_loader(
        Data(train=Numbers(), validation=Numbers(), task=task),
        batch_size=2,
        workers=1,
        drop_last=True,
        seed=0,
        rank=0,
        world=1,
        device=torch.device("cpu"),
        channels_last=False,
    )
    batches = loader.epoch(0)
    next(batches)
    for worker in multiprocessing.active_children():
        for number in (signal.SIGTERM, signal.SIGINT):
            os.kill(worker.pid or 0, number)
    assert len(list(batches)) == 5


def test_handlers_are_given_back() -> None:
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    with StopSignals() as signals, signals.deferred():
        assert signal.getsignal(signal.SIGTERM) != before[0]
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before


def test_a_thread_that_cannot_handle_signals_runs_without() -> None:
    codes: list[int] = []

    def work() -> None:
        with leaving_at_once(), StopSignals() as signals, signals.deferred():
            codes.append(signals.code)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert codes == [0]


def test_the_error_names_the_signal_and_carries_its_code() -> None:
    assert stop_error(75, "saved").exit_code == 75
    assert str(stop_error(130, "saved")) == "stopped by SIGINT: saved"
