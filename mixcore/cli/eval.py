"""`mixcore eval`: what a trained run scores on its validation set, or on another set of its data."""

from __future__ import annotations

from pathlib import Path

import click

from mixcore.cli.files import written
from mixcore.words import as_measured

__all__ = ["command"]


@click.command("eval", short_help="Evaluate a trained run.")
@click.argument("run_folder", type=click.Path(path_type=Path))
@click.option("--set-name", default="val", show_default=True, metavar="NAME", help="Evaluation set to score.")
@click.option(
    "--checkpoint", default="best", show_default=True, metavar="best|last|previous|FILE", help="Weights to evaluate."
)
@click.option(
    "--set", "overrides", metavar="KEY=VALUE", multiple=True, help="Override a key, such as data.root=elsewhere."
)
@click.option("--json", "out", type=click.Path(path_type=Path), help="Also write the numbers to this file.")
def command(run_folder: Path, set_name: str, checkpoint: str, overrides: tuple[str, ...], out: Path | None) -> None:
    """Evaluate every predictor of the run in RUN_FOLDER on its validation set, or on another set that its data has."""
    import json

    from mixcore.logs.jsonl import plain
    from mixcore.run.open import load_run

    run = load_run(run_folder, checkpoint=checkpoint, overrides=overrides)
    found = run.evaluate(set_name)
    click.echo(f"{run.checkpoint}, after epoch {run.epoch}, on {set_name}")
    _print_table(found)
    if out is not None:
        text = json.dumps(
            {
                "checkpoint": str(run.checkpoint),
                "epoch": run.epoch,
                "set": set_name,
                "predictors": {name: plain(metrics) for name, metrics in found.items()},
            },
            indent=2,
        )
        with written(out, "name another file"):
            out.write_text(text + "\n", "utf-8")


def _print_table(found: dict[str, dict[str, float]]) -> None:
    from rich.console import Console
    from rich.table import Table

    metrics = list(next(iter(found.values())))
    table = Table("predictor", box=None, pad_edge=False)
    for metric in metrics:
        table.add_column("images" if metric == "count" else metric, justify="right")
    for name, values in found.items():
        table.add_row(name, *(_number(metric, values[metric]) for metric in metrics))
    Console(highlight=False).print(table)


def _number(metric: str, value: float) -> str:
    if metric == "count":
        return f"{value:.0f}"
    return f"{as_measured(metric, value)}{' %' if metric.startswith('top') else ''}"
