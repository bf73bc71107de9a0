"""Which experiment a run folder is of, by its configuration."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import attrs

from mixcore.errors import MixcoreError
from mixcore.ledger.claims import Claim, Claims
from mixcore.ledger.evidence import Evidence, EvidenceError
from mixcore.ledger.finished import evidence_of
from mixcore.ledger.fit import Fit, fit
from mixcore.ledger.reproduce import load_experiment
from mixcore.run.folder import RunFolder

__all__ = ["rows_of_runs"]


def rows_of_runs(folders: Iterable[Path], claims: Claims) -> tuple[list[tuple[Path, Evidence]], list[str]]:
    """The rows of finished runs with their folders, and one line per folder that gives none."""
    rows: list[tuple[Path, Evidence]] = []
    faults: list[str] = []
    for folder in folders:
        try:
            rows.append((folder, _identified(folder, claims)))
        except MixcoreError as error:
            faults.append(str(error))
    return rows, faults


def _identified(folder: Path, claims: Claims) -> Evidence:
    """The row of a run, as one of the experiment that it is of: the shortest one, where it is a shortened run."""
    row = evidence_of(RunFolder(folder), "unknown", "")
    found = [(claim, fits) for claim in _one_per_experiment(claims) if (fits := _fit(row, claim)) is not None]
    of = [(claim, fits) for claim, fits in found if not fits.refused]
    if not of:
        claim, fits = min(found, key=lambda pair: len(pair[1].refused))
        lines = "".join(f"\n  {line}" for line in fits.refused)
        raise EvidenceError(f"{folder} is of no claim's experiment; the nearest is {claim.experiment}:{lines}")
    claim, _ = min(of, key=lambda pair: pair[1].epochs)
    return attrs.evolve(row, experiment=claim.experiment)


def _one_per_experiment(claims: Claims) -> list[Claim]:
    return list({claim.experiment: claim for claim in reversed(claims.all)}.values())


def _fit(row: Evidence, claim: Claim) -> Fit | None:
    """How the row stands to the claim; None where the experiment cannot be had with what is installed."""
    try:
        return fit(row, claim, load_experiment(claim.experiment))
    except MixcoreError:
        return None
