"""Words of messages and tables."""

from __future__ import annotations

import pytest

from mixcore.words import as_measured


@pytest.mark.parametrize(
    ("metric", "value", "told"),
    [("top1", 72.3149, "72.31"), ("top5", 100.0, "100.00"), ("mae", 0.01234, "0.0123"), ("loss", 2.0, "2.0000")],
)
def test_accuracies_have_two_decimals_and_other_metrics_four(metric: str, value: float, told: str) -> None:
    assert as_measured(metric, value) == told
