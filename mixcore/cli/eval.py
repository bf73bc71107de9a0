"""`mixcore eval`: what a trained run scores on its validation set."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mixcore.cli.files import find_checkpoint, load_checkpoint, settings_of, written

if TYPE_CHECKING:
    from mixcore.config.schema import RunConfig

__all__ = ["command", "scores"]


@click.command("eval", short_help="Evaluate a trained run.")
@click.argument("run_folder", type=click.Path(path_type=Path))
@click.option(
    "--checkpoint", default="best", show_default=True, metavar="best|last|previous|FILE", help="Weights to evaluate."
)
@click.option(
    "--set", "overrides", metavar="KEY=VALUE", multiple=True, help="Override a key, such as data.root=elsewhere."
)
@click.option("--json", "out", type=click.Path(path_type=Path), help="Also write the numbers to this file.")
def command(run_folder: Path, checkpoint: str, overrides: tuple[str, ...], out: Path | None) -> None:
    """Evaluate every predictor of the run in RUN_FOLDER on the validation set."""
    import json

    from mixcore.logs.jsonl import plain
    from mixcore.run.resolve import load_config

    settings = settings_of(run_folder, "the folder")
    path = find_checkpoint(run_folder, checkpoint)
    config = load_config(settings, overrides).config
    state = load_checkpoint(run_folder, path)
    found = scores(config, state)
    click.echo(f"{path}, after epoch {state['epoch']}")
    _print_table(found)
    if out is not None:
        text = json.dumps(
            {
                "checkpoint": str(path),
                "epoch": state["epoch"],
                "predictors": {name: plain(metrics) for name, metrics in found.items()},
            },
            indent=2,
        )
        with written(out, "name another file"):
            out.write_text(text + "\n", "utf-8")


def scores(config: RunConfig, state: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Metrics by predictor of the weights in a checkpoint's `state`, on the validation set that `config` names."""
    import attrs

    from mixcore.discovery.manager import build_plugins
    from mixcore.evaluate.evaluate import evaluate
    from mixcore.run.numerics import numerics
    from mixcore.run.place import Place
    from mixcore.run.processes import joined
    from mixcore.run.session import build_session

    config = attrs.evolve(config, train=attrs.evolve(config.train, compile=False))
    with numerics(config.train), joined(config.run, Place()) as processes:
        session = build_session(config, build_plugins(config), processes)
        session.state.step.load_saved_state(state["step"])
        if session.state.ema is not None and state["ema"] is not None:
            session.state.ema.load_state_dict(state["ema"])
        return evaluate(
            session.state.networks(),
            session.validation,
            task=session.task,
            device=processes.device,
            precision=config.train.precision,
        )


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
    return f"{value:.2f} %" if metric.startswith("top") else f"{value:.4f}"
