"""Numbers of every epoch against the epoch: a curve per run and key."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from mixcore.errors import ConfigError
from mixcore.plots.figure import Table
from mixcore.plots.runs import PlottedRun, named_apart

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["curves", "draw_curves"]

USUAL = ("val/top1", "val/mae", "val/loss", "train/loss")
"""What is drawn where no key is named, the first that a run has."""


def curves(runs: Sequence[PlottedRun], keys: Sequence[str] = ()) -> Table:
    """(curve, epoch, value) of each run and key, tags of metrics.jsonl. ConfigError names those that a run has."""
    rows = []
    for run, name in zip(runs, named_apart(runs), strict=True):
        known = sorted({key for record in run.records for key in record} - {"epoch"})
        wanted = keys or [key for key in USUAL if key in known][:1]
        for key in wanted:
            if key not in known:
                raise ConfigError(f"--key {key}: {run.folder} has {', '.join(known) or 'no epoch yet'}")
            label = name if len(wanted) == 1 else f"{name}: {key}"
            rows += [
                (label, record["epoch"], record[key], key) for record in run.records if record.get(key) is not None
            ]
    if not rows:
        raise ConfigError(f"{', '.join(str(run.folder) for run in runs)}: no epoch has been recorded yet; train first")
    return Table(("curve", "epoch", "value", "key"), rows)


def draw_curves(figure: Figure, table: Table) -> None:
    """Against the epoch, with a marker at each."""
    from matplotlib.ticker import MaxNLocator

    axes = figure.add_subplot()
    for name, rows in table.groups():
        axes.plot([row["epoch"] for row in rows], [row["value"] for row in rows], marker="o", markersize=3, label=name)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("epoch")
    axes.set_ylabel(", ".join(dict.fromkeys(row[-1] for row in table.rows)))
    axes.legend(frameon=False)
