"""`mixcore plot`: pictures of what runs gave."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from mixcore.plots.runs import PlottedRun

__all__ = ["command"]


@click.command("plot", short_help="Draw curves, trade-offs and schedules of runs.")
@click.argument("folders", metavar="RUN...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--kind",
    required=True,
    type=click.Choice(["curves", "radar", "tradeoff", "schedule"]),
    help="curves: numbers of every epoch; tradeoff: accuracy against time and memory; radar: accuracy over data sets; "
    "schedule: the learning rate over the run.",
)
@click.option(
    "--key", "keys", metavar="TAG", multiple=True, help="curves: a tag of metrics.jsonl; may be given several times."
)
@click.option("--out", type=click.Path(path_type=Path), help="PNG file, its CSV goes beside it; default: KIND.png.")
def command(folders: tuple[Path, ...], kind: str, keys: tuple[str, ...], out: Path | None) -> None:
    """Write one picture of the runs in the folders RUN, and its numbers as CSV.

    A folder that lacks what the picture needs is named and left out; the others are drawn, and the exit code is 1.
    """
    from mixcore.errors import ConfigError
    from mixcore.plots.kinds import plot

    out = Path(f"{kind}.png") if out is None else out
    if out.suffix.lower() != ".png":
        raise ConfigError(f"--out {out}: pictures are PNG files; name it {out.with_suffix('.png').name}")
    if keys and kind != "curves":
        raise ConfigError(f"--key is of --kind curves, and this is --kind {kind}; leave it out")
    runs, faults = _readable(folders, kind, keys)
    for fault in faults:
        click.echo(f"mixcore: left out: {fault}", err=True)
    if not runs:
        raise ConfigError("none of the folders can be drawn")
    for path in plot(kind, runs, out, keys):
        click.echo(path)
    if faults:
        click.get_current_context().exit(1)


def _readable(folders: tuple[Path, ...], kind: str, keys: tuple[str, ...]) -> tuple[list[PlottedRun], list[str]]:
    """The runs that have what the plot needs of each, and what the others lack."""
    from mixcore.errors import MixcoreError
    from mixcore.plots.kinds import check
    from mixcore.plots.runs import read_run_for_plots

    runs, faults = [], []
    for folder in folders:
        try:
            run = read_run_for_plots(folder)
            check(kind, run, keys)
            runs.append(run)
        except MixcoreError as error:
            faults.append(str(error))
    return runs, faults
