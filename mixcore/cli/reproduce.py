"""`mixcore reproduce`: the experiment of a published number, once per seed, each finished run kept as evidence."""

from __future__ import annotations

import os
from pathlib import Path

import click

from mixcore.cli.evidence import evidence_option

__all__ = ["command"]


@click.command("reproduce", short_help="Run the experiment of a published number, seed by seed.")
@click.argument("claim_id", metavar="ID")
@click.option("--seeds", type=click.IntRange(min=1), default=3, show_default=True, help="Runs, each of another seed.")
@click.option(
    "--epochs-scale",
    type=click.FloatRange(min=0, min_open=True, max=1),
    default=1.0,
    show_default=True,
    help="Part of the published epochs to train for; below 1 nothing is verified.",
)
@click.option("--set", "overrides", metavar="KEY=VALUE", multiple=True, help="Override a key, such as data.root=data.")
@click.option("--nproc", type=click.IntRange(min=1), help="Processes of each run on this machine, one per device.")
@click.option("--dry-run", is_flag=True, help="Check everything, train nothing, print the configuration and the runs.")
@evidence_option
@click.pass_context
def command(
    ctx: click.Context,
    claim_id: str,
    seeds: int,
    epochs_scale: float,
    overrides: tuple[str, ...],
    nproc: int | None,
    dry_run: bool,
    evidence: Path,
) -> None:
    """Run the experiment of the claim ID with several seeds, one after another, and keep each as evidence.

    The same command goes on where it was stopped; seeds that are done are not run again. Exit codes are those of
    mixcore run.
    """
    from mixcore.cli.run import command as run
    from mixcore.ledger.claims import load_claims
    from mixcore.ledger.compare import compare
    from mixcore.ledger.evidence import read_evidence, write_row
    from mixcore.ledger.finished import evidence_of
    from mixcore.ledger.reproduce import command_of, trials
    from mixcore.run.place import find_place

    claims = load_claims()
    claim = claims.find(claim_id)
    runs = trials(claim, seeds, epochs_scale, overrides)
    typed = command_of(claim, seeds, epochs_scale, overrides, runs[0].loaded.places)
    typed += f" --nproc {nproc}" if nproc else ""
    leads = find_place(os.environ).rank == 0
    for trial in runs[:1] if dry_run else runs:
        ctx.invoke(
            run,
            config=Path(claim.experiment),
            overrides=trial.overrides,
            nproc=nproc,
            dry_run=dry_run,
            resume_from=None,
        )
        if leads and not dry_run:
            click.echo(f"evidence: {write_row(evidence, evidence_of(trial.folder, claim.experiment, typed))}")
    if not leads:
        return
    if dry_run:
        click.echo("".join(f"# seed {trial.seed}: {trial.folder.path}\n" for trial in runs) + f"# {typed}")
        return
    rows, _ = read_evidence(evidence)
    standing = compare(claims, rows, [claim]).standings[claim_id]
    click.echo(f"{claim_id}, {claim.value:.2f} claimed: {standing.status} {standing.said}")
