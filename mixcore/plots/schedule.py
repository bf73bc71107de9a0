"""The learning rate at every iteration of a run, a curve per kind of parameter group."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import attrs

from mixcore.errors import CheckpointError
from mixcore.plots.figure import Table
from mixcore.plots.runs import PlottedRun, named_apart
from mixcore.run.checkpoint import read_checkpoint
from mixcore.run.folder import RunFolder
from mixcore.run.resolve import load_config
from mixcore.run.saved import newest
from mixcore.train.schedule import learning_rate

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["draw_schedules", "schedules"]

POINTS = 2000
"""Of a curve, at most: a longer run is told at that many of its iterations, the first and the last among them."""


def schedules(runs: Sequence[PlottedRun]) -> Table:
    """(curve, iteration, epoch, lr). CheckpointError for a run without a checkpoint, which says what an epoch has."""
    rows: list[tuple[Any, ...]] = []
    for run, name in zip(runs, named_apart(runs), strict=True):
        kinds = list(_kinds(run))
        for kind in kinds:
            label = name if len(kinds) == 1 else f"{name}: {', '.join(kind.groups)}"
            rows += [(label, *point) for point in kind.points()]
    return Table(("curve", "iteration", "epoch", "lr"), rows)


@attrs.frozen(eq=False)
class _Kind:
    """Parameter groups that have the same learning rates throughout."""

    groups: list[str]
    rates: dict[str, float]
    config: Any
    per_epoch: int

    def points(self) -> Iterator[tuple[int, float, float]]:
        last = self.config.epochs * self.per_epoch - 1
        count = min(POINTS, last + 1)
        for index in range(count):
            at = index * last // max(count - 1, 1)
            yield at, at / self.per_epoch, learning_rate(at, self.config, self.per_epoch, **self.rates)


def _kinds(run: PlottedRun) -> Iterator[_Kind]:
    folder = RunFolder(run.folder)
    path = newest(folder.checkpoints)
    if path is None:
        raise CheckpointError(
            f"{run.folder} has no checkpoint, which says how many iterations an epoch has; train first"
        )
    state, config = read_checkpoint(path), load_config(folder.config).config
    found: dict[tuple[float, ...], list[str]] = {}
    for group in state["optimizer"]["param_groups"]:
        rates = tuple(group[key] for key in ("base_lr", "min_lr", "warmup_epochs"))
        found.setdefault(rates, []).append(str(group.get("name", "parameters")))
    for rates, groups in found.items():
        named = dict(zip(("base_lr", "min_lr", "warmup_epochs"), rates, strict=True))
        yield _Kind(groups, named, config.schedule, state["iterations_per_epoch"])


def draw_schedules(figure: Figure, table: Table) -> None:
    """Against the iteration, the epochs above."""
    axes = figure.add_subplot()
    for name, rows in table.groups():
        axes.plot([row["iteration"] for row in rows], [row["lr"] for row in rows], label=name, drawstyle="steps-post")
    axes.set_xlabel("iteration")
    axes.set_ylabel("learning rate")
    axes.legend(frameon=False)
    per_epoch = {round(row[1] / row[2], 6) for row in table.rows if row[2]}
    if len(per_epoch) == 1:  # one scale holds for all curves
        factor = per_epoch.pop()
        above = axes.secondary_xaxis("top", functions=(lambda at: at / factor, lambda epoch: epoch * factor))
        above.set_xlabel("epoch")
