"""`mixcore report`: published numbers beside what was found, as files."""

from __future__ import annotations

from pathlib import Path

import click

from mixcore.cli.evidence import evidence_option, read_rows, tell

__all__ = ["command"]


@click.command("report", short_help="Compare published numbers with runs: table, CSV and picture.")
@click.argument("runs", metavar="[RUN]...", nargs=-1, type=click.Path(path_type=Path))
@evidence_option
@click.option(
    "--out", type=click.Path(path_type=Path, file_okay=False), required=True, metavar="DIR", help="Where to write."
)
@click.pass_context
def command(ctx: click.Context, runs: tuple[Path, ...], evidence: Path, out: Path) -> None:
    """Write report.md, report.csv and report.png into DIR: the claims beside the evidence, and the runs in RUN folders.

    What cannot be counted is named, and the exit code is then 1; the rest is reported all the same.
    """
    from mixcore.ledger.claims import load_claims
    from mixcore.ledger.compare import compare
    from mixcore.ledger.report import write_report

    claims = load_claims()
    rows, faults = read_rows(ctx, evidence)
    if runs:
        from mixcore.ledger.identify import rows_of_runs

        more, odd = rows_of_runs(runs, claims)
        rows, faults = [*rows, *more], [*faults, *odd]
    compared = compare(claims, rows)
    faults = [*faults, *compared.faults]
    written, advice = write_report(out, claims, compared, faults)
    for path in written:
        click.echo(str(path))
    if advice:
        click.echo(advice, err=True)
    if tell(faults):
        ctx.exit(1)
