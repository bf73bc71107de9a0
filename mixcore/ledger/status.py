"""Where a claim stands, by the evidence that there is."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, TypeAlias

import attrs

from mixcore.ledger.claims import Claim
from mixcore.ledger.evidence import Evidence
from mixcore.ledger.fit import Fit

__all__ = ["STATUSES", "Standing", "Status", "standing"]

Status: TypeAlias = Literal["verified", "higher", "lower", "partial", "untried"]
STATUSES: tuple[Status, ...] = ("verified", "higher", "lower", "partial", "untried")
SEEDS = 3
"""Seeds below which nothing is verified, higher or lower."""
ERRORS, MARGIN = 2, 0.3
"""A mean is that of the claim within so many standard errors, plus so many points."""


@attrs.frozen(kw_only=True)
class Standing:
    """What the evidence says of a claim. Accuracies in percent, over the runs of most epochs."""

    status: Status = "untried"
    seeds: tuple[int, ...] = ()
    """Those that count, each once."""
    mean: float | None = None
    deviation: float | None = None
    """Standard deviation over the seeds, divided by their number; None for one seed."""
    difference: float | None = None
    """The mean minus the claim."""
    tolerance: float | None = None
    """How far the mean may be from the claim; None where it is partial."""
    legacy: float | None = None
    """Mean by the legacy form of the protocol; no status follows from it."""
    predictors: Mapping[str, float] = {}
    """Mean of every predictor, by name."""
    lacking: tuple[str, ...] = ()
    """What makes it partial: `1 of 3 seeds`, `20 of 200 epochs`."""
    remarks: tuple[str, ...] = ()
    """What else the runs differ in from the published setting."""

    @property
    def said(self) -> str:
        """Mean, deviation, difference and what there is to add, in a line; empty where nothing was tried."""
        if self.mean is None or self.difference is None:
            return ""
        spread = "" if self.deviation is None else f" +- {self.deviation:.2f}"
        seeds = [f"{len(self.seeds)} seeds"] if len(self.seeds) >= SEEDS else []
        return (
            f"{self.mean:.2f}{spread} ({'; '.join((f'{self.difference:+.2f}', *seeds, *self.lacking, *self.remarks))})"
        )


def standing(claim: Claim, fitting: Sequence[tuple[Evidence, Fit]]) -> Standing:
    """Where `claim` stands by the rows that are of its experiment.

    The runs of most epochs count. Several of one seed count as their mean. From three seeds of all epochs on the claim
    is verified where their mean is within two standard errors plus 0.3 points of it, and else higher or lower; with
    fewer of either it is partial, whatever the mean.
    """
    if not fitting:
        return Standing()
    epochs, wanted = max(row.epochs for row, _ in fitting), fitting[0][1].epochs
    counted = [(row, fit) for row, fit in fitting if row.epochs == epochs]
    by_seed = {seed: [_value(row, claim) for row, _ in counted if row.seed == seed] for seed in _seeds(counted)}
    means = [statistics.fmean(values) for values in by_seed.values()]
    mean = statistics.fmean(means)
    lacking = [f"{epochs} of {wanted} epochs"] if epochs < wanted else []
    lacking += [f"{len(means)} of {SEEDS} seeds"] if len(means) < SEEDS else []
    tolerance = None if lacking else ERRORS * _standard_error(means) + MARGIN
    return Standing(
        status="partial" if tolerance is None else _judge(mean - claim.value, tolerance),
        seeds=tuple(by_seed),
        mean=mean,
        deviation=statistics.pstdev(means) if len(means) > 1 else None,
        difference=mean - claim.value,
        tolerance=tolerance,
        legacy=_legacy([row for row, _ in counted], claim),
        predictors=_by_predictor([row for row, _ in counted]),
        lacking=tuple(lacking),
        remarks=tuple(dict.fromkeys(remark for _, fit in counted for remark in fit.remarks)),
    )


def _standard_error(values: Sequence[float]) -> float:
    """Of the mean of two values and more."""
    return statistics.stdev(values) / math.sqrt(len(values))


def _value(row: Evidence, claim: Claim) -> float:
    """What the claim is compared with: the run's own predictor, or the best of all of them where the claim is that."""
    return max(row.values.values()) if claim.over_predictors else row.value


def _legacy(rows: Sequence[Evidence], claim: Claim) -> float | None:
    """The mean of all rows, where each has a value."""
    found = [row.legacy_largest if claim.over_predictors else _own_legacy(row) for row in rows]
    values = [value for value in found if value is not None]
    return statistics.fmean(values) if len(values) == len(rows) else None


def _own_legacy(row: Evidence) -> float | None:
    """Of the run's own predictor."""
    return row.legacy.get(row.configured("eval", "predictor"))


def _seeds(counted: Iterable[tuple[Evidence, Fit]]) -> list[int]:
    return sorted({row.seed for row, _ in counted})


def _by_predictor(rows: Sequence[Evidence]) -> dict[str, float]:
    """Means over the rows, of the predictors that all of them have."""
    names = [name for name in rows[0].values if all(name in row.values for row in rows)]
    return {name: statistics.fmean(row.values[name] for row in rows) for name in names}


def _judge(difference: float, tolerance: float) -> Status:
    if round(abs(difference) - tolerance, 9) <= 0:  # 78.82 is 0.3 above 78.52, and more than that in floats
        return "verified"
    return "higher" if difference > 0 else "lower"
