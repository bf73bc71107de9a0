"""How finished runs compare: accuracy against time and memory, and over data sets."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import TYPE_CHECKING

from mixcore.errors import ConfigError
from mixcore.plots.figure import Table
from mixcore.plots.runs import PlottedRun, named_apart, settings_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["draw_radar", "draw_tradeoff", "radar", "tradeoff"]

FEWEST_AXES = 3
WORST = 0.25
"""Where on an axis, of its length, the lowest value lies; the highest is at its end."""
LARGEST_MARKER = 1500
"""Area in points² of the largest memory."""


def tradeoff(runs: Sequence[PlottedRun]) -> Table:
    """(setting, hours, value, memory in GiB, runs): means over runs that repeat each other."""
    settings = settings_of(runs)
    names = named_apart([setting.runs[0] for setting in settings])
    rows = [
        (
            name,
            setting.mean(lambda summary: sum(summary["seconds"].values()) / 3600),
            setting.mean(lambda summary: summary["value"]),
            setting.mean(lambda summary: summary["peak_memory_bytes"] / 2**30),
            len(setting.runs),
        )
        for name, setting in zip(names, settings, strict=True)
    ]
    return Table(("setting", "hours", "value", "memory_gib", "runs"), rows)


def draw_tradeoff(figure: Figure, table: Table) -> None:
    """A disc per setting, its area the memory."""
    axes = figure.add_subplot()
    most = max(row[3] for row in table.rows)
    for name, hours, value, memory, _ in table.rows:
        axes.scatter(hours, value, s=LARGEST_MARKER * memory / most, alpha=0.5)
        radius = math.sqrt(LARGEST_MARKER * memory / most / math.pi)
        text, place = f"{name} ({memory:.1f} GiB)", (0, -radius - 4)
        axes.annotate(text, (hours, value), place, textcoords="offset points", ha="center", va="top", fontsize=9)
    axes.margins(0.15)
    axes.set_xlabel("hours of training and evaluation")
    axes.set_ylabel("value of the runs by their protocol, mean over seeds")


def radar(runs: Sequence[PlottedRun]) -> Table:
    """(method, data set, value, runs): means over the runs of a method on a data set.

    ConfigError for fewer than three data sets, and where a method lacks one of them.
    """
    settings_of(runs)  # all have ended
    others = {run.summary["metric"] for run in runs if run.summary and not run.summary["metric"].startswith("top")}
    if others:
        raise ConfigError(
            f"a radar plot compares accuracies; some of these runs are measured by {', '.join(sorted(others))}; "
            "--kind tradeoff and --kind curves take them"
        )
    values: dict[tuple[str, str], list[float]] = {}
    for run in runs:
        assert run.summary is not None
        values.setdefault((run.method, run.config["data"]["name"]), []).append(run.summary["value"])
    methods, sets = (list(dict.fromkeys(key[place] for key in values)) for place in (0, 1))
    if len(sets) < FEWEST_AXES:
        raise ConfigError(f"a radar plot has at least {FEWEST_AXES} data sets; these runs have {', '.join(sets)}")
    missing = [f"{method} on {name}" for method in methods for name in sets if (method, name) not in values]
    if missing:
        raise ConfigError(
            f"a radar plot compares methods on the same data sets; there is no run of {', '.join(missing)}"
        )
    rows = [
        (method, name, statistics.fmean(values[method, name]), len(values[method, name]))
        for method in methods
        for name in sets
    ]
    return Table(("method", "data", "value", "runs"), rows)


def draw_radar(figure: Figure, table: Table) -> None:
    """An axis per data set, each with a scale of its own, from the lowest value among the methods to the highest."""
    axes = figure.add_subplot(projection="polar")
    sets = list(dict.fromkeys(row[1] for row in table.rows))
    angles = [2 * math.pi * place / len(sets) for place in range(len(sets))]
    ends = {name: [row[2] for row in table.rows if row[1] == name] for name in sets}
    for method, rows in table.groups():
        along = [_place(row["value"], ends[row["data"]]) for row in rows]
        axes.plot([*angles, angles[0]], [*along, along[0]], marker="o", label=method)
        axes.fill([*angles, angles[0]], [*along, along[0]], alpha=0.08)
    axes.set_xticks(angles, [f"{name}\n{min(ends[name]):.2f} to {max(ends[name]):.2f} %" for name in sets])
    axes.tick_params(axis="x", pad=28)
    axes.set_yticks([])
    axes.set_ylim(0, 1.05)
    axes.legend(loc="upper left", bbox_to_anchor=(1.1, 1), frameon=False)


def _place(value: float, ends: Sequence[float]) -> float:
    low, high = min(ends), max(ends)
    return 1.0 if high == low else WORST + (1 - WORST) * (value - low) / (high - low)
