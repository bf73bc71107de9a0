"""All claims beside all evidence: which rows count for which claim, and what is refused."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import attrs

from mixcore.errors import MixcoreError
from mixcore.ledger.claims import Claim, Claims
from mixcore.ledger.evidence import Evidence
from mixcore.ledger.fit import Fit, fit
from mixcore.ledger.reproduce import load_experiment
from mixcore.ledger.status import Standing, standing
from mixcore.words import suggestion

__all__ = ["Comparison", "compare"]


@attrs.frozen(kw_only=True)
class Comparison:
    """Where claims stand, and what could not be taken into account."""

    standings: Mapping[str, Standing]
    """Of each claim, by its id."""
    rows: Mapping[str, tuple[Evidence, ...]]
    """Those that are evidence of a claim, by its id."""
    faults: tuple[str, ...]
    """What was refused, and why."""


def compare(
    claims: Claims, rows: Sequence[tuple[object, Evidence]], chosen: Sequence[Claim] | None = None
) -> Comparison:
    """Where the `chosen` of the `claims`, or all, stand by the `rows`, each given with its file or folder.

    An experiment is resolved only where there is a row of it.
    """
    faults = _of_no_claim(claims, rows)
    standings, counted = {}, {}
    for claim in claims if chosen is None else chosen:
        own = [(place, row) for place, row in rows if row.experiment == claim.experiment]
        fitting = _fitting(claim, own, faults)
        standings[claim.id] = standing(claim, fitting)
        counted[claim.id] = tuple(row for row, _ in fitting)
    return Comparison(standings=standings, rows=counted, faults=tuple(dict.fromkeys(faults)))


def _of_no_claim(claims: Claims, rows: Iterable[tuple[object, Evidence]]) -> list[str]:
    names = {claim.experiment for claim in claims}
    return [
        f"{place} is evidence of {row.experiment!r}, of which there is no claim{suggestion(row.experiment, names)}"
        for place, row in rows
        if row.experiment not in names
    ]


def _fitting(claim: Claim, rows: Sequence[tuple[object, Evidence]], faults: list[str]) -> list[tuple[Evidence, Fit]]:
    """The rows that are evidence of the claim; what is said of the others is added to `faults`."""
    if not rows:
        return []
    try:
        wanted = load_experiment(claim.experiment)
    except MixcoreError as error:
        faults.append(f"{claim.id} cannot be compared, its experiment is refused: {error}")
        return []
    found = []
    for place, row in rows:
        fits = fit(row, claim, wanted)
        if fits.refused:
            lines = "".join(f"\n  {line}" for line in fits.refused)
            faults.append(f"{place} is no evidence of {claim.id}, it is of another experiment:{lines}")
        else:
            found.append((row, fits))
    return found
