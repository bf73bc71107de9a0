from __future__ import annotations

import io

import pytest
from rich.console import Console

from mixcore.logs.progress import Progress, duration

RECORD = {"epoch": 1, "train/loss": 1.25, "train/lr": 0.1, "val/top1": 45.5, "val/top5": 80.0, "val/loss": None}


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def screen(terminal: bool, width: int = 100) -> Console:
    return Console(file=io.StringIO(), force_terminal=terminal, width=width, highlight=False, color_system=None)


def text(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_lines_where_there_is_no_terminal() -> None:
    console, clock = screen(False), Clock()
    with Progress(20, console=console, clock=clock) as progress:
        progress.start_epoch(0, 10)
        for _ in range(10):
            clock.now += 2
            progress.advance(100, loss=1.5)
        clock.now += 5  # the evaluation: not part of the speed of training
        progress.end_epoch(RECORD)
        progress.message("a [word] in brackets")
    assert text(console).splitlines() == [
        "epoch  1/20  loss 1.2500  top1 45.50  top5 80.00  lr 0.1  50 images/s  0:00:25",
        "a [word] in brackets",
    ]


def test_a_long_epoch_says_something_every_minute() -> None:
    console, clock = screen(False), Clock()
    with Progress(2, console=console, clock=clock) as progress:
        progress.start_epoch(0, 10)
        for iteration in range(10):
            clock.now += 25
            progress.advance(100, loss=1.5 if iteration == 0 else None)
    assert text(console).splitlines() == [
        "epoch 1/2  3/10  loss 1.5000  4.0 images/s  0:07:05 left",
        "epoch 1/2  6/10  loss 1.5000  4.0 images/s  0:05:50 left",
        "epoch 1/2  9/10  loss 1.5000  4.0 images/s  0:04:35 left",
    ]


def test_remaining_time_after_a_resume_counts_what_this_process_did() -> None:
    console, clock = screen(False), Clock()
    with Progress(10, console=console, clock=clock) as progress:
        progress.start_epoch(8, 100, start=50)
        for _ in range(25):
            clock.now += 4
            progress.advance(1)
    # 15 of 100 iterations in a minute, and 1.35 epochs are left
    assert text(console) == "epoch  9/10  65/100  loss -  0.2 images/s  0:09:00 left\n"


@pytest.mark.parametrize("terminal", [True, False])
def test_other_processes_are_silent(terminal: bool) -> None:
    console = screen(terminal)
    with Progress(2, rank=1, console=console) as progress:
        progress.start_epoch(0, 1)
        progress.advance(100, loss=1.0)
        progress.end_epoch(RECORD)
        progress.message("hello")
    assert text(console) == ""


def test_a_bar_on_a_terminal_and_epochs_above_it() -> None:
    console, clock = screen(True), Clock()
    with Progress(3, console=console, clock=clock) as progress:
        progress.start_epoch(1, 200, start=50)
        for _ in range(50):
            clock.now += 0.1
            progress.advance(64, loss=0.75)
        progress._bar.refresh()
        drawn = text(console)
        assert "epoch 2/3" in drawn
        assert "100/200" in drawn
        assert "loss 0.7500" in drawn
        assert "640 images/s" in drawn
        assert "0:00:30 left" in drawn  # a quarter of an epoch took 5 s, one and a half are left
        progress.end_epoch(RECORD)
        progress.start_epoch(2, 200)
        assert len(progress._bar.tasks) == 1
    assert "epoch 2/3  loss 1.2500  top1 45.50" in text(console)


@pytest.mark.parametrize(
    ("seconds", "expected"), [(0, "0:00:00"), (59.6, "0:01:00"), (3723, "1:02:03"), (-1, "0:00:00")]
)
def test_duration(seconds: float, expected: str) -> None:
    assert duration(seconds) == expected
