"""Where a claim stands: the design's rule, on figures worked out by hand."""

from __future__ import annotations

import math
from collections.abc import Callable

import attrs
import pytest

from mixcore.ledger.claims import Claim
from mixcore.ledger.evidence import Evidence
from mixcore.ledger.fit import Fit
from mixcore.ledger.status import Standing, standing

Rows = Callable[..., Evidence]
WHOLE = Fit(epochs=200)


def of(claim: Claim, rows: list[Evidence], fit: Fit = WHOLE) -> Standing:
    return standing(claim, [(row, fit) for row in rows])


def of_values(make_row: Rows, claim: Claim, *values: float) -> Standing:
    return of(claim, [make_row(seed=seed, value=value) for seed, value in enumerate(values)])


def test_nothing_is_untried(claim: Claim) -> None:
    assert standing(claim, []) == Standing(status="untried")


def test_three_equal_seeds_leave_the_margin_alone(make_row: Rows, claim: Claim) -> None:
    for value, status in ((78.82, "verified"), (78.83, "higher"), (78.22, "verified"), (78.21, "lower")):
        found = of_values(make_row, claim, value, value, value)
        assert (found.status, found.deviation) == (status, 0.0), value
        assert found.tolerance == pytest.approx(0.3)


def test_the_margin_grows_by_two_standard_errors(make_row: Rows, claim: Claim) -> None:
    # 79.0, 79.3, 79.6: mean 79.3; sum of squares 0.18, so deviation sqrt(0.06) and standard error 0.3 / sqrt(3)
    found = of_values(make_row, claim, 79.0, 79.3, 79.6)
    assert found.mean == pytest.approx(79.3)
    assert found.difference == pytest.approx(0.78)
    assert found.deviation == pytest.approx(math.sqrt(0.06))
    assert found.tolerance == pytest.approx(2 * 0.3 / math.sqrt(3) + 0.3)  # 0.646
    assert (found.status, found.seeds, found.lacking) == ("higher", (0, 1, 2), ())
    assert of_values(make_row, claim, 78.8, 79.1, 79.4).status == "verified"  # 0.58 away
    assert of_values(make_row, claim, 77.44, 77.74, 78.04).status == "lower"  # 0.78 below


@pytest.mark.parametrize("values", [(78.52,), (78.52, 78.52)])
def test_fewer_seeds_are_partial_whatever_they_give(make_row: Rows, claim: Claim, values: tuple[float, ...]) -> None:
    found = of_values(make_row, claim, *values)
    assert (found.status, found.lacking, found.tolerance) == ("partial", (f"{len(values)} of 3 seeds",), None)
    assert found.mean == pytest.approx(78.52)


def test_fewer_epochs_are_partial_whatever_they_give(make_row: Rows, claim: Claim) -> None:
    rows = [make_row("schedule.epochs=20", seed=seed, value=78.52) for seed in range(3)]
    found = of(claim, rows)
    assert (found.status, found.lacking) == ("partial", ("20 of 200 epochs",))
    whole = [make_row(seed=seed, value=70.0) for seed in range(3)]
    assert of(claim, rows + whole).status == "lower"
    both = of(claim, rows[:1])
    assert both.lacking == ("20 of 200 epochs", "1 of 3 seeds")


def test_a_seed_counts_once(make_row: Rows, claim: Claim) -> None:
    rows = [make_row(seed=0, value=78.0), make_row(seed=0, value=79.0), make_row(seed=1, value=78.5)]
    found = of(claim, rows)
    assert (found.status, found.lacking, found.seeds) == ("partial", ("2 of 3 seeds",), (0, 1))
    assert found.mean == pytest.approx(78.5)


def test_a_claim_over_predictors_is_compared_with_the_best_of_each_run(make_row: Rows, claim: Claim) -> None:
    heads = [{"model": 78.0, "k_mix": 79.0}, {"model": 79.0, "k_mix": 78.4}, {"model": 78.0, "k_mix": 78.6}]
    rows = [make_row(seed=seed, value=values["model"], values=values) for seed, values in enumerate(heads)]
    assert of(claim, rows).mean == pytest.approx(235.0 / 3)
    found = of(attrs.evolve(claim, over_predictors=True), rows)
    assert found.mean == pytest.approx(236.6 / 3)  # 79.0, 79.0, 78.6
    assert found.predictors == pytest.approx({"model": 235.0 / 3, "k_mix": 236.0 / 3})


def test_the_legacy_form_is_told_beside(make_row: Rows, claim: Claim) -> None:
    told = [{"legacy": {"model": 78.0, "k_mix": 78.6}, "legacy_largest": 78.7}, {"legacy": {"model": 79.0}}]
    rows = [make_row(seed=seed, **legacy) for seed, legacy in enumerate(told)]
    assert of(claim, rows).legacy == pytest.approx(78.5)
    assert of(attrs.evolve(claim, over_predictors=True), rows[:1]).legacy == pytest.approx(78.7)
    assert of(attrs.evolve(claim, over_predictors=True), rows).legacy is None, "one of them says nothing of it"


def test_remarks_of_all_counted_runs_are_told_once(make_row: Rows, claim: Claim) -> None:
    fits = [Fit(epochs=200, remarks=("precision bf16",)), Fit(epochs=200, remarks=("precision bf16", "compile true"))]
    rows = [make_row(seed=0), make_row(seed=1)]
    assert standing(claim, list(zip(rows, fits, strict=True))).remarks == ("precision bf16", "compile true")
