"""What rank 0 says while a run trains: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, TextColumn
from rich.progress import Progress as Bar

__all__ = ["LINE_EVERY", "Progress", "duration", "epoch_line"]

LINE_EVERY = 60.0
"""Seconds between the lines inside one epoch where there is no terminal."""

_SHOWN = (
    ("loss", "train/loss", ".4f"),
    ("val loss", "val/loss", ".4f"),
    ("top1", "val/top1", ".2f"),
    ("top5", "val/top5", ".2f"),
    ("mae", "val/mae", ".4f"),
    ("rmse", "val/rmse", ".4f"),
    ("lr", "train/lr", ".3g"),
)
"""Word, tag and format of what the line of an epoch repeats from its record."""


class Progress:
    """Epoch, images per second, loss and remaining time of a run.

    On a terminal a bar runs through the epoch and the finished epochs stand above it. Elsewhere there is a line per
    epoch, and inside an epoch one about every minute. `console` and `clock` (seconds) are for tests.
    """

    def __init__(
        self,
        epochs: int,
        *,
        rank: int = 0,
        console: Console | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._epochs, self._clock = epochs, clock
        self._console = console or Console(highlight=False, soft_wrap=True)
        self._silent = rank != 0
        self._bar: Bar | None = None
        if not self._silent and self._console.is_terminal:
            self._bar = _make_bar(self._console)
        self._began: float | None = None
        """When this process began its first epoch."""
        self._worked = 0.0
        """How many epochs this process has trained, parts of one included."""
        self._epoch = self._iterations = self._at = self._images = 0
        self._epoch_began = self._advanced = self._last_line = 0.0
        self._loss: float | None = None

    def start_epoch(self, epoch: int, iterations: int, start: int = 0) -> None:
        """Epoch `epoch` (from 0) begins; after a resume inside it at iteration `start` of `iterations`."""
        now = self._clock()
        if self._began is None:
            self._began = now
        self._epoch, self._iterations, self._at, self._images = epoch, iterations, start, 0
        self._epoch_began = self._advanced = self._last_line = now
        if self._bar is not None:
            for task in self._bar.task_ids:
                self._bar.remove_task(task)
            self._bar.add_task(self._name(), total=iterations, completed=start, **self._fields())
            self._bar.start()

    def advance(self, images: int, loss: float | None = None) -> None:
        """One iteration of `images` images (of all processes) is done; `loss` only where the loop has read it."""
        self._advanced = self._clock()
        self._at += 1
        self._images += images
        self._worked += 1 / self._iterations
        if loss is not None:
            self._loss = loss
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=self._at, **self._fields())
        elif self._advanced - self._last_line >= LINE_EVERY and self._at < self._iterations:
            self._last_line = self._advanced
            fields = self._fields()
            self._print(
                f"{self._name()}  {self._at}/{self._iterations}  {fields['loss']}  {fields['rate']}  {fields['left']}"
            )

    def end_epoch(self, record: Mapping[str, Any]) -> None:
        """The epoch is trained and evaluated: one line of its `record`, as it stands in metrics.jsonl."""
        seconds = self._clock() - self._epoch_began
        self._print("  ".join((epoch_line(self._name(), record), self._rate(), duration(seconds))))

    def message(self, text: str) -> None:
        """A line of its own, above the bar where there is one."""
        self._print(text)

    def close(self) -> None:
        """Take the bar away; further closes do nothing."""
        if self._bar is not None:
            for task in self._bar.task_ids:
                self._bar.remove_task(task)
            self._bar.stop()

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _print(self, text: str) -> None:
        if not self._silent:
            self._console.print(text, markup=False)

    def _name(self) -> str:
        return f"epoch {self._epoch + 1:>{len(str(self._epochs))}}/{self._epochs}"

    def _rate(self) -> str:
        seconds = self._advanced - self._epoch_began
        if seconds <= 0 or not self._images:
            return "- images/s"
        rate = self._images / seconds
        return f"{rate:,.0f} images/s" if rate >= 10 else f"{rate:.1f} images/s"

    def _fields(self) -> dict[str, Any]:
        loss = "loss -" if self._loss is None else f"loss {self._loss:.4f}"
        return {"loss": loss, "rate": self._rate(), "left": f"{self._left()} left"}

    def _left(self) -> str:
        """Time to the end of the run at the pace of this process so far, evaluations included."""
        if self._began is None or not self._worked:
            return "-:--:--"
        done = self._epoch + self._at / self._iterations
        return duration((self._clock() - self._began) / self._worked * (self._epochs - done))


def epoch_line(name: str, record: Mapping[str, Any]) -> str:
    """The numbers of an epoch's record that a person follows, behind `name`; tags that it lacks are left out."""
    shown = [f"{word} {record[tag]:{form}}" for word, tag, form in _SHOWN if isinstance(record.get(tag), int | float)]
    return "  ".join((name, *shown))


def duration(seconds: float) -> str:
    """Hours, minutes and seconds, such as 1:02:03."""
    whole = max(0, round(seconds))
    return f"{whole // 3600}:{whole // 60 % 60:02}:{whole % 60:02}"


def _make_bar(console: Console) -> Bar:
    return Bar(
        TextColumn("{task.description}"),
        BarColumn(bar_width=None),
        TextColumn("{task.completed:.0f}/{task.total:.0f}"),
        TextColumn("{task.fields[loss]}"),
        TextColumn("{task.fields[rate]}"),
        TextColumn("{task.fields[left]}"),
        console=console,
        transient=True,
        expand=True,
        refresh_per_second=4,
    )
