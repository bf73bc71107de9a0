from __future__ import annotations

import pytest

from mixcore.errors import ConfigError, MixcoreError
from mixcore.evaluate.protocol import parse_protocol, protocol_result, protocol_value

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
    ],
)
def test_value(protocol: str, expected: float) -> None:
    assert protocol_value(protocol, VALUES) == expected


def test_best_of_an_error_metric_is_its_minimum() -> None:
    assert protocol_value("best", VALUES, higher_is_better=False) == 10.0


def test_too_few_epochs_are_refused_and_partial_is_marked() -> None:
    with pytest.raises(MixcoreError, match=r"needs 7 evaluated epochs and there are 6.*median-last-6"):
        protocol_value("median-last-7", VALUES)
    result = protocol_result("median-last-7", VALUES, allow_partial=True)
    assert (result.value, result.epochs, result.partial) == (55.0, 6, True)
    assert not protocol_result("median-last-6", VALUES, allow_partial=True).partial


@pytest.mark.parametrize("protocol", ["best", "last", "median-last-2"])
def test_no_epoch_at_all(protocol: str) -> None:
    with pytest.raises(MixcoreError, match="no epoch has been evaluated"):
        protocol_result(protocol, [], allow_partial=True)


@pytest.mark.parametrize("text", ["", "first", "median", "median-last-", "median-last-0", "median-last--3", "best "])
def test_unknown_protocols_name_what_is_allowed(text: str) -> None:
    with pytest.raises(ConfigError, match='"last", "best" or "median-last-N"'):
        parse_protocol(text)
