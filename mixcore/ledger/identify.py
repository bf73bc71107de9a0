"""Which experiment a run folder is of, by its configuration.

Resolving an experiment takes a while, and there are hundreds. So those are resolved alone whose files say most nearly
what the run's configuration says.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import attrs

from mixcore.errors import MixcoreError
from mixcore.ledger.benchmarks import Experiment, benchmark, benchmarks, experiment
from mixcore.ledger.claims import Claim, Claims
from mixcore.ledger.evidence import Evidence, EvidenceError
from mixcore.ledger.finished import evidence_of
from mixcore.ledger.fit import Fit, fit
from mixcore.ledger.reproduce import load_experiment
from mixcore.run.folder import ABSENT, RunFolder, differences

__all__ = ["rows_of_runs"]

Tree: TypeAlias = Mapping[str, Any]

_RESOLVED = 12
"""Experiments that are compared in full: more than lengths of one backbone and method."""


def rows_of_runs(folders: Iterable[Path], claims: Claims) -> tuple[list[tuple[Path, Evidence]], list[str]]:
    """The rows of finished runs with their folders, and one line per folder that gives none."""
    rows: list[tuple[Path, Evidence]] = []
    faults: list[str] = []
    trees = list(_trees(claims))
    for folder in folders:
        try:
            rows.append((folder, _identified(folder, trees)))
        except MixcoreError as error:
            faults.append(str(error))
    return rows, faults


def _identified(folder: Path, trees: Sequence[tuple[Claim, Tree]]) -> Evidence:
    """The row of a run, as one of the experiment that it is of: the shortest one, where it is a shortened run."""
    row = evidence_of(RunFolder(folder), "unknown", "")
    found = [(claim, fits) for claim in _nearest(row, trees) if (fits := _fit(row, claim)) is not None]
    if not found:
        raise EvidenceError(f"{folder} is of no claim's experiment")
    of = [(claim, fits) for claim, fits in found if not fits.refused]
    if not of:
        claim, fits = min(found, key=lambda pair: len(pair[1].refused))
        lines = "".join(f"\n  {line}" for line in fits.refused)
        raise EvidenceError(f"{folder} is of no claim's experiment; the nearest is {claim.experiment}:{lines}")
    claim, _ = min(of, key=lambda pair: pair[1].epochs)
    return attrs.evolve(row, experiment=claim.experiment)


def _trees(claims: Claims) -> Iterator[tuple[Claim, Tree]]:
    """One claim of each experiment whose files can be read, with what they say."""
    known = {found.id: found for name in benchmarks() for found in _experiments(name)}
    for claim in {claim.experiment: claim for claim in reversed(claims.all)}.values():
        try:
            # a name without epochs is none of those
            found = known.get(claim.experiment) or experiment(claim.experiment)
            yield claim, {"mix": {"name": "none"}, **found.tree}
        except MixcoreError:
            continue


def _experiments(name: str) -> Sequence[Experiment]:
    """Those of a benchmark; none where its files are broken, which ends no report."""
    try:
        return list(benchmark(name).experiments())
    except MixcoreError:
        return ()


def _nearest(row: Evidence, trees: Sequence[tuple[Claim, Tree]]) -> list[Claim]:
    """Claims of the experiments of whose keys the fewest have another value in the row."""

    def distance(pair: tuple[Claim, Tree]) -> int:
        return sum(found.there is not ABSENT for found in differences(pair[1], row.configuration))

    return [claim for claim, _ in sorted(trees, key=distance)[:_RESOLVED]]


def _fit(row: Evidence, claim: Claim) -> Fit | None:
    """How the row stands to the claim; None where the experiment cannot be had with what is installed."""
    try:
        return fit(row, claim, load_experiment(claim.experiment))
    except MixcoreError:
        return None
