"""`mixcore claims`: the published numbers, where each stands, and how each is run."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mixcore.cli.evidence import evidence_option, read_rows, tell
from mixcore.cli.table import print_table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mixcore.ledger.claims import Claim, Claims
    from mixcore.ledger.compare import Comparison
    from mixcore.ledger.status import Standing

__all__ = ["command"]


@click.command("claims", short_help="List published numbers, or show one and how to run it.")
@click.argument("claim_id", metavar="[ID]", required=False)
@click.option("--dataset", help="Only of this data set, such as CIFAR-100.")
@click.option("--benchmark", help="Only of this benchmark, such as imagenet-deit.")
@click.option("--backbone", help="Only of this backbone, such as resnet18.")
@click.option("--method", help="Only of this method, such as cutmix.")
@click.option(
    "--status",
    type=click.Choice(["verified", "higher", "lower", "partial", "untried"]),
    help="Only what stands so, by the evidence that there is.",
)
@evidence_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON: a list of objects, or with ID one object.")
@click.pass_context
def command(
    ctx: click.Context, /, claim_id: str | None, status: str | None, evidence: Path, as_json: bool, **wanted: str | None
) -> None:
    """List the published numbers and where each stands; with ID, show one: its source, its setting, how to run it.

    Evidence that had to be refused is named on stderr.
    """
    import json

    from mixcore.ledger.claims import load_claims
    from mixcore.ledger.compare import compare

    filters = {key: value for key, value in wanted.items() if value is not None}
    if claim_id is not None and (filters or status):
        options = ", ".join(f"--{key}" for key in (*filters, *(["status"] if status else [])))
        raise click.UsageError(f"{claim_id} is one claim; leave out {options}")
    claims = load_claims()
    chosen = claims.select(filters) if claim_id is None else [claims.find(claim_id)]
    rows, faults = read_rows(ctx, evidence)
    compared = compare(claims, rows, chosen)
    chosen = [claim for claim in chosen if status in (None, compared.standings[claim.id].status)]
    if as_json:
        found = [_as_json(claims, claim, compared.standings[claim.id]) for claim in chosen]
        click.echo(json.dumps(found if claim_id is None else found[0], indent=2))
    elif claim_id is None:
        _list(chosen, compared)
    else:
        _show(claims, chosen[0], compared.standings[claim_id])
    tell([*faults, *compared.faults])


def _as_json(claims: Claims, claim: Claim, standing: Standing) -> dict[str, Any]:
    """Everything that is known of a claim; None where something is not."""
    import attrs

    told = {key: value for key, value in attrs.asdict(claim).items() if key not in ("training", "validation")}
    return {
        **{key: told.pop(key) for key in ("id", "value")},
        "status": standing.status,
        **told,
        "conflicting": {other.id: other.value for other in claims.conflicting(claim)},
        **{key: value for key, value in attrs.asdict(standing).items() if key != "status"},
    }


def _list(chosen: Sequence[Claim], compared: Comparison) -> None:
    rows = []
    for claim in chosen:
        standing = compared.standings[claim.id]
        rows.append((claim.id, f"{claim.value:.2f}", claim.protocol, standing.status, standing.said))
    print_table(("claim", "value", "protocol", "status", "reproduced"), rows)
    click.echo(f"{len(rows)} claims" if len(rows) != 1 else "1 claim")


def _show(claims: Claims, claim: Claim, standing: Standing) -> None:
    import tomli_w

    from mixcore.ledger.benchmarks import experiment

    for name, text in _described(claims, claim, standing).items():
        click.echo(f"{name:<12}{text}")
    click.echo(f"\n# the configuration of {claim.experiment}; what it leaves out has the default of its plugin")
    click.echo(tomli_w.dumps(experiment(claim.experiment).tree).strip())
    click.echo(f"\n# with three seeds, into runs/reproduce/{claim.id}")
    click.echo(shlex.join(("mixcore", "reproduce", claim.id)))


def _described(claims: Claims, claim: Claim, standing: Standing) -> dict[str, str]:
    told = {
        "claim": claim.id,
        "value": f"{claim.value:.2f} % {claim.metric}",
        "source": claim.source,
        "printed as": claim.label if claim.metric_as_given is None else f"{claim.label}, {claim.metric_as_given}",
        "data set": claim.dataset,
        "protocol": _protocol(claim),
    }
    if claim.alpha is not None:
        instead = "" if claim.alpha_override is None else f"; {claim.alpha_override:g} was used"
        told["alpha"] = f"{claim.alpha}{instead}"
    if claim.mark:
        told["made"] = {
            "official": "with the method's official code",
            "preprint": "by the benchmark's authors, after a preprint",
        }[claim.mark]
    for other in claims.conflicting(claim):
        told["conflict"] = f"{other.value:.2f} % in {other.document} ({other.id})"
    if claim.note:
        told["note"] = claim.note
    told["status"] = f"{standing.status} {standing.said}".strip()
    if len(standing.predictors) > 1:
        told["predictors"] = ", ".join(f"{name} {value:.2f}" for name, value in standing.predictors.items())
    return told


def _protocol(claim: Claim) -> str:
    told = [claim.protocol]
    if claim.epochs is not None:
        told.append(f"{claim.epochs} epochs{' (inferred)' if claim.epochs_inferred else ''}")
    if claim.trials:
        told.append(f"mean of {claim.trials} runs")
    if claim.over_predictors:
        told.append("the largest of all predictors (networks and heads) of the run")
    return ", ".join(told)
