"""The table of a sweep that goes on, on a terminal; elsewhere nothing is shown."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from typing import TYPE_CHECKING

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from mixcore.logs.progress import duration

if TYPE_CHECKING:
    from mixcore.ledger.sweep_state import RunState, SweepState

__all__ = ["render", "watching"]

_ORDER = ("running", "failed", "preempted", "waiting", "done")
"""Which runs are shown where there is no room for all."""
_STYLES = {"running": "bold", "done": "green", "failed": "red", "preempted": "yellow", "waiting": "dim"}
_AROUND = 7
"""Lines of the terminal that are not rows: title, head, borders, the line below."""


@contextmanager
def watching(state: SweepState, console: Console | None = None) -> Iterator[None]:
    """Show the table while inside, twice a second. Where there is no terminal, what libraries print goes to stderr."""
    console = console or Console()
    if not console.is_terminal:
        with redirect_stdout(sys.stderr):  # so that --json is alone on standard output
            yield
        return

    def look() -> RenderableType:
        state.look()
        return render(state, rows=max(1, console.height - _AROUND))

    with Live(get_renderable=look, console=console, refresh_per_second=2, transient=True):
        yield


def render(state: SweepState, rows: int) -> RenderableType:
    """State, epoch, best value and remaining time of at most so many runs, those that go first."""
    now = time.monotonic()
    runs = list(state.runs.values())
    shown = _shown(runs, rows)
    table = Table(box=None, pad_edge=False)
    table.add_column("run", overflow="ellipsis", no_wrap=True)
    for name in ("state", "epoch", "best", "left"):
        table.add_column(name, justify="left" if name == "state" else "right", no_wrap=True)
    for run in shown:
        left = run.left(now)
        table.add_row(
            escape(run.run.name),
            f"[{_STYLES[run.status]}]{run.status}[/]",
            f"{run.epoch}/{run.epochs}",
            "" if run.best is None else f"{run.best:.2f}",
            "" if left is None else duration(left),
        )
    hidden = len(runs) - len(shown)
    return Group(table, Text(_line(state) + (f"; {hidden} more runs are not shown" if hidden else "")))


def _shown(runs: Sequence[RunState], rows: int) -> list[RunState]:
    """As many runs as there is room for, in their own order."""
    chosen = sorted(runs, key=lambda run: _ORDER.index(run.status))[:rows]
    return [run for run in runs if run in chosen]


def _line(state: SweepState) -> str:
    counts = [f"{count} {status}" for status in reversed(_ORDER) if (count := state.count(status))]  # type: ignore[arg-type]
    left = state.left()
    return ", ".join(counts) + ("" if left is None else f"; about {duration(left)} left")
