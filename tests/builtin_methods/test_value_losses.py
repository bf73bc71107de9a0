"""Losses of mixed values against hand-made numbers and torch's own."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from mixcore.api import Mix, Targets
from mixcore.testing import PluginContract
from mixcore_plugins_builtin.losses.values import FocalL1, Huber, MeanAbsoluteError, MeanSquaredError

LOSSES = (MeanAbsoluteError(), MeanSquaredError(), Huber(delta=0.7), FocalL1(), FocalL1(activation="tanh"))


class TestL1Contract(PluginContract):
    role, plugin = "loss", "l1"
    left_out = ("two_processes",)


class TestHuberContract(PluginContract):
    role, plugin = "loss", "huber"
    left_out = ("two_processes",)


class TestFocalContract(PluginContract):
    role, plugin = "loss", "focal_l1"
    left_out = ("two_processes",)


def targets_of(values: Tensor, partner: Tensor, lam: Tensor) -> Targets:
    return Mix.pair(torch.zeros(len(partner), 1, 4, 4), partner, lam).targets(values)


def by_hand() -> tuple[Tensor, Targets]:
    """Errors (0, 1) and (3, -4).

    Row 0: t = 0.75·(1,2) + 0.25·(5,-2) = (2,1); row 1: t = 0.5·(5,-2) + 0.5·(1,2) = (3,0).
    """
    values = torch.tensor([[1.0, 2.0], [5.0, -2.0]])
    targets = targets_of(values, torch.tensor([1, 0]), torch.tensor([0.75, 0.5]))
    return torch.tensor([[2.0, 2.0], [6.0, -4.0]]), targets


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


@pytest.mark.parametrize(
    ("loss", "penalties"),
    [
        (MeanAbsoluteError(), (0, 1, 3, 4)),
        (MeanSquaredError(), (0, 1, 9, 16)),
        (Huber(), (0, 0.5, 2.5, 3.5)),
        (Huber(delta=2.0), (0, 0.5, 4, 6)),
        (FocalL1(), [e * (2 * sigmoid(0.2 * e) - 1) for e in (0, 1, 3, 4)]),
        (FocalL1(activation="tanh"), [e * math.tanh(0.2 * e) for e in (0, 1, 3, 4)]),
        (FocalL1(activation="tanh", beta=1.0), [e * math.tanh(e) for e in (0, 1, 3, 4)]),
        (FocalL1(plus_error=True), [e * (2 * sigmoid(0.2 * e) - 1) + e for e in (0, 1, 3, 4)]),
    ],
)
def test_a_pair_by_hand(loss: Any, penalties: Any) -> None:
    predictions, targets = by_hand()
    assert loss.compute_loss(predictions, targets).item() == pytest.approx(sum(penalties) / 4, rel=1e-6)


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: type(loss).__name__)
def test_the_loss_is_that_of_the_linearly_mixed_value(loss: Any) -> None:
    """And of that value alone: not the mean of the losses at the two values."""
    rng = torch.Generator().manual_seed(0)
    values, predictions = torch.randn(6, 3, generator=rng), torch.randn(6, 3, generator=rng)
    lam, partner = torch.rand(6, generator=rng), torch.randperm(6, generator=rng)
    mixed = lam[:, None] * values + (1 - lam)[:, None] * values[partner]
    clean = targets_of(mixed, torch.arange(6), torch.ones(6))
    found = loss.compute_loss(predictions, targets_of(values, partner, lam))
    torch.testing.assert_close(found, loss.compute_loss(predictions, clean))


def test_torch_agrees() -> None:
    rng = torch.Generator().manual_seed(1)
    values, predictions = torch.randn(5, 2, generator=rng) * 3, torch.randn(5, 2, generator=rng)
    clean = targets_of(values, torch.arange(5), torch.ones(5))
    for loss, expected in (
        (MeanAbsoluteError(), F.l1_loss(predictions, values)),
        (MeanSquaredError(), F.mse_loss(predictions, values)),
        (Huber(delta=0.7), F.huber_loss(predictions, values, delta=0.7)),
    ):
        torch.testing.assert_close(loss.compute_loss(predictions, clean), expected)


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: type(loss).__name__)
def test_gradients_are_finite_without_an_error_and_at_a_huge_one(loss: Any) -> None:
    predictions = torch.tensor([[1.0], [1e6]], requires_grad=True)
    loss.compute_loss(predictions, targets_of(torch.ones(2, 1), torch.arange(2), torch.ones(2))).backward()
    assert predictions.grad is not None
    assert predictions.grad.isfinite().all()
    assert predictions.grad[0].item() == 0
    assert predictions.grad[1].item() > 0.3


@pytest.mark.parametrize(
    ("loss", "options"), [(Huber, {"delta": 0.0}), (FocalL1, {"beta": -1.0}), (FocalL1, {"activation": "relu"})]
)
def test_options_out_of_range_are_refused(loss: Any, options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        loss(**options)
