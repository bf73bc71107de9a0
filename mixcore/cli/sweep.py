"""`mixcore sweep`: many runs from one file, on one machine or on many."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mixcore.cli.table import print_table

if TYPE_CHECKING:
    from mixcore.hooks.calls import PluginCalls
    from mixcore.ledger.sweep import Outcome
    from mixcore.ledger.sweep_file import SweepFile
    from mixcore.ledger.sweep_plan import Plan

__all__ = ["command"]


@click.command("sweep", short_help="Train every combination that a sweep file names.")
@click.argument("file", metavar="SWEEP", type=click.Path(path_type=Path))
@click.option("--jobs", type=click.IntRange(min=1), help="Runs that go at a time; by default what the launcher does.")
@click.option("--launcher", "name", help="Launcher in place of the file's, with its default options.")
@click.option("--dry-run", is_flag=True, help="Check everything, train nothing, list the runs.")
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON in place of a table.")
@click.pass_context
def command(ctx: click.Context, file: Path, jobs: int | None, name: str | None, dry_run: bool, as_json: bool) -> None:
    """Train every combination that the file SWEEP names, each with every seed, and sum up.

    Each run is an ordinary run folder below the sweep's, which `mixcore run FOLDER/config.toml` goes on with alone. The
    same command goes on with a sweep that was stopped: what is done stays done, what failed is tried again. Where
    standard output is a terminal, a table shows the runs as they go. `summary.json` and `summary.md` in the sweep's
    folder hold what came out.

    Exit codes: 0 done, 1 a run failed, 2 refused before the first run, 75 preempted and 130 interrupted: runs have
    written checkpoints and the same command goes on (also where others failed).
    """
    from mixcore.ledger.sweep_file import read_sweep

    sweep = read_sweep(file)  # before all that follows imports torch, which takes seconds

    from mixcore.ledger.sweep_plan import plan_sweep

    launcher = _launcher(sweep, name)
    plan = plan_sweep(sweep, _say if sys.stderr.isatty() else lambda _text: None)
    if sys.stderr.isatty():
        _say("")
    if dry_run:
        _list(plan, launcher, as_json)
        return
    _carry_out(ctx, plan, launcher, jobs, as_json)


def _say(text: str) -> None:
    """One line on the terminal that the next one takes the place of."""
    click.echo(f"\r\x1b[2K{text}", nl=False, err=True)


def _launcher(sweep: SweepFile, name: str | None) -> PluginCalls:
    from mixcore.config.faults import raise_faults
    from mixcore.config.schema import PluginTable
    from mixcore.discovery.outside import lone_plugin

    own = name is None or name == sweep.launcher.name
    table = sweep.launcher if own or name is None else PluginTable(name=name)
    launcher, faults = lone_plugin("launcher", table, ("launcher",))
    if launcher is None:
        raise_faults(faults, str(sweep.path), sweep.layer.place if own else lambda _path: "--launcher")
    return launcher


def _list(plan: Plan, launcher: PluginCalls, as_json: bool) -> None:
    from mixcore.ledger.sweep_folder import SweepFolder
    from mixcore.ledger.sweep_state import SweepState
    from mixcore.ledger.sweep_summary import summarise_sweep

    SweepFolder(plan.dir).check_owner(plan)
    state = SweepState(plan)
    if as_json:
        click.echo(json.dumps(summarise_sweep(state), indent=2, default=str))
        return
    rows = [(name, found.status, f"{found.epoch}/{found.epochs}") for name, found in state.runs.items()]
    print_table(("run", "state", "epoch"), rows)
    _tell_refused(plan)
    click.echo(f"{len(rows)} runs in {plan.dir}, by {launcher.label}; everything fits")


def _carry_out(ctx: click.Context, plan: Plan, launcher: PluginCalls, jobs: int | None, as_json: bool) -> None:
    from mixcore.cli.sweep_table import watching
    from mixcore.ledger.sweep import run_sweep

    outcome = run_sweep(plan, launcher, jobs, watching)
    if as_json:
        click.echo(json.dumps(outcome.summary, indent=2, default=str))
    else:
        _print(plan, outcome)
    code = _exit_code(outcome)
    if code:
        ctx.exit(code)


def _print(plan: Plan, outcome: Outcome) -> None:
    from mixcore.ledger.sweep_summary import header, table_row

    summary = outcome.summary
    print_table(header(summary), [table_row(summary, group) for group in summary["settings"]])
    _tell_refused(plan)
    for name, found in outcome.state.runs.items():
        if found.status in ("failed", "preempted"):
            how = "" if found.exit_code is None else f", exit code {found.exit_code}"
            click.echo(f"{found.status}: {name}{how}; see {found.run.folder.path / 'output.log'}", err=True)
    click.echo(f"{outcome.state.count('done')} of {len(summary['runs'])} runs are done ({plan.dir}/summary.md)")


def _tell_refused(plan: Plan) -> None:
    for words, reason in plan.refused.items():
        click.echo(f"left out {words}: {reason}")


def _exit_code(outcome: Outcome) -> int:
    """Preempted before failed: a scheduler that starts the command again then finishes what can be finished."""
    if outcome.stopped:
        return outcome.stopped
    if outcome.state.count("preempted"):
        return 75
    return 0 if outcome.state.count("done") == len(outcome.state.runs) else 1
