"""`mixcore show`: a picture of what the mixers of a configuration make of its images."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mixcore.cli.files import written

if TYPE_CHECKING:
    from PIL import Image

    from mixcore.config.schema import RunConfig
    from mixcore.discovery.plugins import Plugins

__all__ = ["command", "picture"]


@click.command("show", short_help="Picture what the mixers of a configuration do.")
@click.argument("config", type=click.Path(path_type=Path))
@click.option("--set", "overrides", metavar="KEY=VALUE", multiple=True, help="Override a key, such as mix.alpha=0.2.")
@click.option("--out", type=click.Path(path_type=Path), help="PNG file to write; by default <name of CONFIG>.png here.")
@click.option("--rows", type=click.IntRange(min=1), default=8, show_default=True, help="Mixed images per mixer.")
@click.option("--epoch", type=click.IntRange(min=0), default=0, show_default=True, help="Epoch, from 0, of the batch.")
@click.option("--seed", type=click.IntRange(min=0), help="Seed, by default the configuration's.")
def command(
    config: Path, overrides: tuple[str, ...], out: Path | None, rows: int, epoch: int, seed: int | None
) -> None:
    """Write a PNG with originals, partners, masks, mixed images, lam and label weights.

    The images are the first batch that a run of CONFIG trains on in that epoch, mixed by each of its mixers in turn.
    CONFIG is a file, a published experiment by its name, or a run folder: the mixers then have the weights of its best
    checkpoint. Mixers that can are shown over lam 0.1 to 0.9 too.
    """
    import attrs

    from mixcore.discovery.manager import register_selection
    from mixcore.errors import ConfigError
    from mixcore.ledger.named import find_configuration
    from mixcore.run.open import read_run

    saved = read_run(config, "best", overrides) if config.is_dir() else None
    if saved is None:
        found = find_configuration(config, overrides)
        loaded, name = found.load(), found.name
    else:
        loaded, name = saved.configuration, config.resolve().name
    chosen = loaded.config if seed is None else attrs.evolve(loaded.config, seed=seed)
    if epoch >= chosen.schedule.epochs:
        raise ConfigError(
            f"--epoch {epoch} is not in this run of {chosen.schedule.epochs} epochs, 0 to {chosen.schedule.epochs - 1}"
        )
    out = Path(f"{name}.png") if out is None else out
    heading = f"{saved.checkpoint if saved else config}   epoch {epoch}   seed {chosen.seed}"
    plugins = register_selection(loaded.selection)
    sheet = picture(chosen, plugins, rows=rows, epoch=epoch, heading=heading, state=saved.state if saved else None)
    with written(out, "name another file with --out"):
        sheet.save(out, format="png")
    click.echo(out)


def picture(
    config: RunConfig, plugins: Plugins, *, rows: int, epoch: int, heading: str, state: dict[str, Any] | None = None
) -> Image.Image:
    """The contact sheet of the first batch of `epoch` (from 0): a section per mixer, with the weights in `state`.

    Mixers that picture themselves have a further section, their masks over lam.
    """
    import attrs

    from mixcore.pictures.previews import LAMS, preview_block
    from mixcore.pictures.sheet import Section, contact_sheet
    from mixcore.run.numerics import numerics
    from mixcore.run.place import Place
    from mixcore.run.processes import joined
    from mixcore.run.session import build_data, build_networks, check_groups, training_loader

    # not worth the wait for one batch
    config = attrs.evolve(config, train=attrs.evolve(config.train, compile=False, ema_decay=None))
    with numerics(config.train), joined(config.run, Place()) as processes:
        data = build_data(plugins, processes)
        check_groups(config, data, processes)
        task, loader = data.task, training_loader(config, plugins, data, processes)
        iterations = config.schedule.epochs * len(loader)
        step, _ = build_networks(config, plugins, task, processes, iterations=iterations)
        if state is not None:
            step.load_saved_state(state["step"])
        batch = next(iter(loader.epoch(epoch)))
        shown = max(rows, 2)
        previews = step.previews(batch.rows(slice(shown)), LAMS)
        sections = []
        for index, mixer in enumerate(plugins.mixers):
            mix, targets = step.mix_batch(batch, mixer=index, epoch=epoch, iteration=epoch * len(loader))
            notes = _notes(mixer.plugin, plugins.probabilities[index])
            sections.append(Section(title=mixer.name, notes=notes, mix=mix, images=batch.images, targets=targets))
        more = [preview_block(key, batch.images[:shown], mixes, LAMS, task, rows) for key, mixes in previews.items()]
        return contact_sheet(sections, task, rows=rows, heading=heading, more=more)


def _notes(plugin: Any, probability: float) -> list[str]:
    """The mixer's options, and how often it takes the batch where it does not always."""
    import json

    import attrs

    values = {field.name: getattr(plugin, field.name) for field in attrs.fields(type(plugin)) if field.init}
    options = [f"{key} = {json.dumps(value, default=str)}" for key, value in values.items() if value is not None]
    turns = [f"takes {100 * probability:.0f} % of the batches"] if probability < 1 else []
    return [line for line in (",  ".join(options), *turns) if line]
