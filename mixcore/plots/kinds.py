"""The plots that there are, by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import attrs

from mixcore.plots.curves import curves, draw_curves
from mixcore.plots.figure import Table, write_plot
from mixcore.plots.results import draw_radar, draw_tradeoff, radar, tradeoff
from mixcore.plots.runs import PlottedRun, settings_of
from mixcore.plots.schedule import draw_schedules, schedules

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["KINDS", "Kind", "check", "plot"]


@attrs.frozen(eq=False)
class Kind:
    """What a plot shows of runs, and how."""

    numbers: Callable[[Sequence[PlottedRun]], Table]
    draw: Callable[[Figure, Table], None]
    of_each: Callable[[Sequence[PlottedRun]], object]
    """Raises what is told of a run that lacks what the plot needs of each."""


KINDS: Mapping[str, Kind] = {
    "curves": Kind(curves, draw_curves, curves),
    "radar": Kind(radar, draw_radar, settings_of),
    "tradeoff": Kind(tradeoff, draw_tradeoff, settings_of),
    "schedule": Kind(schedules, draw_schedules, schedules),
}


def check(kind: str, run: PlottedRun, keys: Sequence[str] = ()) -> None:
    """MixcoreError where `run` lacks what a plot of that `kind` needs of each."""
    if keys:
        curves([run], keys)
    else:
        KINDS[kind].of_each([run])


def plot(kind: str, runs: Sequence[PlottedRun], out: Path, keys: Sequence[str] = ()) -> list[Path]:
    """Write the plot of that `kind` to the PNG `out` and its numbers beside it; `keys` are those of curves."""
    chosen = KINDS[kind]
    table = curves(runs, keys) if keys else chosen.numbers(runs)
    return write_plot(table, chosen.draw, out)
