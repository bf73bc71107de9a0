"""Running sums of an epoch."""

from __future__ import annotations

import math

import pytest
import torch

from mixcore.errors import NonFiniteLossError
from mixcore.train.totals import Totals


def filled(*losses: float, read_after: int = 1) -> Totals:
    totals = Totals("bf16")
    for i, loss in enumerate(losses):
        more = {"cutmix/area": torch.tensor(float(i))} if i % 2 else {}
        totals.add(0, i, torch.tensor(loss), torch.tensor(0.25), torch.tensor(2.0), "cutmix", more)
        if (i + 1) % read_after == 0:
            totals.read()
    totals.read()
    return totals


def test_means_count_only_the_iterations_that_have_the_tag() -> None:
    expected = {"train/loss": 2.5, "mix/lam": 0.25, "mix/sources": 2.0, "cutmix/area": 2.0}
    assert filled(1.0, 2.0, 3.0, 4.0).means() == expected


def test_how_often_the_device_was_read_changes_no_bit() -> None:
    losses = torch.rand(23, generator=torch.Generator().manual_seed(0)).tolist()
    assert filled(*losses, read_after=1).state() == filled(*losses, read_after=7).state()


def test_a_stopped_epoch_goes_on_where_it_was() -> None:
    whole = filled(0.1, 0.2, 0.3)
    first, rest = filled(0.1, 0.2), Totals("fp32")
    rest.merge(first.state())
    rest.add(0, 2, torch.tensor(0.3), torch.tensor(0.25), torch.tensor(2.0), None, {})
    rest.read()
    assert rest.state() == whole.state()
    rest.clear()
    assert rest.means() == {}


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_the_first_bad_loss_is_named_however_late_it_is_read(bad: float) -> None:
    with pytest.raises(NonFiniteLossError) as caught:
        filled(1.0, 2.0, bad, bad, read_after=4)
    for said in (f"became {bad}", "epoch 1, iteration 2", "mixer cutmix", "mean lam 0.25", "precision bf16"):
        assert said in str(caught.value)
