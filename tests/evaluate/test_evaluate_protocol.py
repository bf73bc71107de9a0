from __future__ import annotations

import math

import numpy as np
import pytest

from mixcore.errors import ConfigError, MixcoreError
from mixcore.evaluate.protocol import best_predictor, parse_protocol, protocol_result, protocol_value

VALUES = [10.0, 90.0, 30.0, 60.0, 50.0, 70.0]


@pytest.mark.parametrize(
    ("protocol", "expected"),
    [
        ("best", 90.0),
        ("last", 70.0),
        ("median-last-1", 70.0),
        ("median-last-3", 60.0),
        ("median-last-4", 55.0),  # 30 60 50 70: the mean of the two middle values, not one of them
        ("median-last-6", 55.0),
        ("best-last-2", 70.0),
        ("best-last-5", 90.0),
        ("best-last-6", 90.0),
        ("median-last-3-legacy", 55.0),  # 30 60 50 70
        ("median-last-5-legacy", 55.0),
        ("median-last-6-legacy", 55.0),  # there are no more
        ("best-legacy", (90.0 + 89.0) / 2),  # 99 % of the way from the first to the sixth: 0.95 from 70 to 90
    ],
)
def test_value(protocol: str, expected: float) -> None:
    assert protocol_value(protocol, VALUES) == expected


def test_best_of_an_error_metric_is_its_minimum() -> None:
    assert protocol_value("best", VALUES, higher_is_better=False) == 10.0
    assert protocol_value("best-last-3", VALUES, higher_is_better=False) == 50.0
    assert protocol_value("best-legacy", VALUES, higher_is_better=False) == pytest.approx((10 + 11) / 2)


def test_too_few_epochs_are_refused_and_partial_is_marked() -> None:
    with pytest.raises(MixcoreError, match=r"needs 7 evaluated epochs and there are 6.*median-last-6"):
        protocol_value("median-last-7", VALUES)
    result = protocol_result("median-last-7", VALUES, allow_partial=True)
    assert (result.value, result.epochs, result.partial) == (55.0, 6, True)
    assert not protocol_result("median-last-6", VALUES, allow_partial=True).partial
    with pytest.raises(MixcoreError, match=r"best-last-7 needs 7 evaluated epochs and there are 6.*\"best-last-6\""):
        protocol_value("best-last-7", VALUES)
    result = protocol_result("best-last-7", VALUES, allow_partial=True)
    assert (result.value, result.epochs, result.partial) == (90.0, 6, True)
    assert not protocol_result("median-last-6-legacy", VALUES).partial
    assert protocol_result("median-last-3-legacy", VALUES).epochs == 4


def test_an_epoch_that_is_not_finite() -> None:
    values = [*VALUES, math.nan]
    assert [protocol_value(protocol, values) for protocol in ("best", "best-last-3")] == [90.0, 70.0]
    assert protocol_value("best-legacy", values) == pytest.approx(89.5)
    assert math.isnan(protocol_value("median-last-2", values))
    assert math.isnan(protocol_value("best-last-1", values))


HEADS = {"model": [1.0, 5.0, 2.0, 4.0], "q_one": [0.0, 6.0, 7.0, 1.0], "k_mix": [3.0, 3.0, 3.0, math.nan]}


@pytest.mark.parametrize(
    ("protocol", "name", "value", "epochs"),
    [
        ("best", "q_one", 7.0, 4),
        ("last", "model", 4.0, 1),
        ("median-last-2", "q_one", 4.0, 2),
        # epochs 2 to 4 and 2 to 3: of q_one the medians 6 and 6.5, of model 4 and 3.5
        ("median-last-2-legacy", "q_one", 6.5, 2),
    ],
)
def test_the_best_predictor(protocol: str, name: str, value: float, epochs: int) -> None:
    found, result = best_predictor(protocol, HEADS)
    assert (found, result.value, result.epochs) == (name, value, epochs)


def test_the_best_predictor_of_an_error_and_of_none() -> None:
    assert best_predictor("best", HEADS, higher_is_better=False)[0] == "q_one"
    assert best_predictor("last", {"b": [2.0], "a": [2.0]})[0] == "b", "the first of equals"
    name, result = best_predictor("last", {"a": [math.nan]})
    assert name == "a"
    assert math.isnan(result.value)
    with pytest.raises(MixcoreError, match="at least one predictor"):
        best_predictor("last", {})


def test_the_published_maximum_over_heads_is_of_two_more_epochs_from_ten_on() -> None:
    """As the script counts: epochs >= E-N-1, a prefix without the last value, all, and all again; four heads."""
    values = np.random.default_rng(0).normal(70, 5, (4, 30))
    for last in (5, 9, 10, 12):
        numbered = [(epoch, values[:, epoch - 1]) for epoch in range(1, 31)]
        chosen = np.array([row for epoch, row in numbered if epoch >= 30 - last - (1 if last >= 10 else 0)])
        assert len(chosen) == last + (2 if last >= 10 else 1)
        prefixes = [chosen[: len(chosen) - 1 + end] for end in range(3)]
        stated = max(np.median(prefix, axis=0).max() for prefix in prefixes)
        heads = {str(head): list(series) for head, series in enumerate(values)}
        assert best_predictor(f"median-last-{last}-legacy", heads)[1].value == pytest.approx(stated)


@pytest.mark.parametrize("protocol", ["best", "last", "median-last-2"])
def test_no_epoch_at_all(protocol: str) -> None:
    with pytest.raises(MixcoreError, match="no epoch has been evaluated"):
        protocol_result(protocol, [], allow_partial=True)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "first",
        "median",
        "median-last-",
        "median-last-0",
        "median-last--3",
        "best ",
        "best-last-",
        "best-last-3-legacy",
        "last-legacy",
        "median-legacy",
    ],
)
def test_unknown_protocols_name_what_is_allowed(text: str) -> None:
    with pytest.raises(ConfigError, match='"last", "best" or "median-last-N"'):
        parse_protocol(text)
