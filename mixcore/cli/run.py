"""`mixcore run`: train what a configuration says, or go on with it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mixcore.words import as_measured

if TYPE_CHECKING:
    from mixcore.discovery.plugins import Plugins
    from mixcore.run.folder import RunFolder
    from mixcore.run.resolve import Loaded

__all__ = ["command"]


@click.command("run", short_help="Train what a configuration says.")
@click.argument("config", type=click.Path(path_type=Path))
@click.option("--set", "overrides", metavar="KEY=VALUE", multiple=True, help="Override a key, such as mix.alpha=0.2.")
@click.option("--nproc", type=click.IntRange(min=1), help="Processes to start on this machine, one per device.")
@click.option("--dry-run", is_flag=True, help="Check everything, train nothing, print the resolved configuration.")
@click.option(
    "--resume-from",
    type=click.Choice(["last", "previous"]),
    help="Checkpoint to go on from; by default the newest, where there is one.",
)
@click.pass_context
def command(
    ctx: click.Context,
    config: Path,
    overrides: tuple[str, ...],
    nproc: int | None,
    dry_run: bool,
    resume_from: str | None,
) -> None:
    """Train what CONFIG says: a file, or a published experiment by its name, such as cifar100.resnet18.mixup.ep200.

    The same command goes on with a run that was stopped.

    Exit codes: 0 done, 1 failed while running, 2 refused before training, 75 preempted and 130 interrupted, both with a
    checkpoint written.
    """
    import os

    from mixcore.config.run_dir import check_dir
    from mixcore.ledger.named import find_configuration

    if not _among_several(os.environ):
        find_configuration(config, overrides)  # before all that follows imports torch, which takes seconds

    from mixcore.discovery.manager import register_selection
    from mixcore.errors import ConfigError, InterruptedRunError, MixcoreError, PreemptedError
    from mixcore.run.folder import RunFolder
    from mixcore.run.launch import is_child, launch, raised_on_rank_zero, reported
    from mixcore.run.place import find_place
    from mixcore.run.run import run

    place = find_place(os.environ)
    with reported(place.rank):
        with raised_on_rank_zero(place.rank, MixcoreError):
            if nproc is not None and place.world > 1 and not is_child():
                raise ConfigError(f"--nproc {nproc} inside a launcher that started {place.world} processes; remove it")
            loaded = find_configuration(config, overrides).load()
            folder = RunFolder(Path(loaded.resolved["run"]["dir"]))
            check_dir(loaded.resolved["run"]["dir"])
            plugins = register_selection(loaded.selection)
            if not dry_run:
                folder.check_owner(loaded.resolved, loaded.places)
        if dry_run:
            _check(loaded, plugins)
            return
        if folder.summary.exists():
            if place.rank == 0:
                click.echo(f"{folder.path} is done already: {_result(folder)}")
            return
        if nproc is not None and not is_child():
            launch(_arguments(config, overrides, nproc, resume_from), nproc, debug=ctx.obj["debug"])
            return
        with raised_on_rank_zero(place.rank, PreemptedError, InterruptedRunError):
            summary = run(loaded, folder, plugins=plugins, resume_from=resume_from)
        if summary is not None:
            click.echo(f"done: {_result(folder)} ({folder.path})")


def _among_several(environment: Mapping[str, str]) -> bool:
    """Whether a launcher started this process: then rank 0 alone says what all of them find in the file."""
    return bool({"RANK", "SLURM_PROCID"} & environment.keys())


def _check(loaded: Loaded, plugins: Plugins) -> None:
    """Build everything, try the first iteration and keep nothing; print the resolved file and one line per role."""
    from mixcore.run.numerics import numerics
    from mixcore.run.trial import try_run

    with numerics(loaded.config.train):
        session = try_run(loaded.config, plugins)
    state = session.state
    click.echo(loaded.text.rstrip() + "\n")
    for role, name, distribution, version, line in plugins.described():
        click.echo(f"# {role}: {name} ({distribution} {version}) {line}")
    for remark in session.remarks:
        click.echo(f"# {' '.join(remark.split())}")
    click.echo(f"# run folder: {loaded.resolved['run']['dir']}")
    click.echo(f"# everything fits: {state.epochs} epochs of {state.iterations_per_epoch} iterations")


def _result(folder: RunFolder) -> str:
    summary = folder.read_summary()
    percent = " %" if summary["metric"].startswith("top") else ""

    def shown(value: float | None) -> str:
        return "not finite" if value is None else f"{as_measured(summary['metric'], value)}{percent}"

    best = summary["best"]
    found = "never finite" if best is None else f"{shown(best['value'])} in epoch {best['epoch']}"
    return f"{summary['metric']} {shown(summary['value'])} ({summary['protocol']}), best {found} of {summary['epochs']}"


def _arguments(config: Path, overrides: tuple[str, ...], nproc: int, resume_from: str | None) -> list[str]:
    """The command line of a child: the parent's own, but that a child joins the others instead of starting more."""
    settings = [part for override in overrides for part in ("--set", override)]
    resume = [] if resume_from is None else ["--resume-from", resume_from]
    return ["run", str(config), *settings, "--nproc", str(nproc), *resume]
