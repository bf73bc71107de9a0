"""`mixcore export`: a trained run for other programs."""

from __future__ import annotations

from pathlib import Path

import click

__all__ = ["command"]


@click.command("export", short_help="Write a trained network for other programs.")
@click.argument("run_folder", type=click.Path(path_type=Path))
@click.option(
    "--to",
    required=True,
    type=click.Choice(["timm", "safetensors", "onnx", "pt2"]),
    help="timm: for timm.create_model, with config.json; safetensors: the tensors alone; onnx; pt2: of torch.export.",
)
@click.option("--out", required=True, type=click.Path(path_type=Path), help="New folder for the files.")
@click.option("--predictor", metavar="NAME", help="Which of the run's predictors, by default the one that it reports.")
@click.option(
    "--checkpoint", default="best", show_default=True, metavar="best|last|previous|FILE", help="Weights to export."
)
@click.option(
    "--set", "overrides", metavar="KEY=VALUE", multiple=True, help="Override a key, such as data.root=elsewhere."
)
def command(
    run_folder: Path, to: str, out: Path, predictor: str | None, checkpoint: str, overrides: tuple[str, ...]
) -> None:
    """Write the network of the run in RUN_FOLDER, with a model card, into a new folder.

    What was written is read back, and its logits compared with the run's, before it is called done.
    """
    from mixcore.export.export import export
    from mixcore.run.open import load_run

    run = load_run(run_folder, checkpoint=checkpoint, device="cpu", overrides=overrides)
    for path in export(run, to, out, predictor):
        click.echo(path)
