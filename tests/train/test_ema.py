"""Averaged weights."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from mixcore.train.ema import Ema


def network(value: float) -> nn.Module:
    module = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    with torch.no_grad():
        for tensor in module.state_dict().values():
            tensor.fill_(value)
    return module


def test_average_by_hand() -> None:
    model = network(0.0)
    ema = Ema(model, decay=0.9)
    model.load_state_dict(network(1.0).state_dict())
    ema.update(model, step=1)
    assert torch.equal(ema.state_dict()["0.weight"], torch.ones(2, 2)), "the first step copies"
    model.load_state_dict(network(3.0).state_dict())
    ema.update(model, step=2)
    state = ema.state_dict()
    torch.testing.assert_close(state["0.weight"], torch.full((2, 2), 0.9 * 1 + 0.1 * 3))
    torch.testing.assert_close(state["1.running_mean"], torch.full((2,), 1.2))
    assert state["1.num_batches_tracked"] == 3, "integers are copied"


@pytest.mark.parametrize(("step", "decay"), [(2, 1 - 2 ** (-2 / 3)), (8, 0.75), (1000, 0.95)])
def test_warmup(step: int, decay: float) -> None:
    model = network(0.0)
    ema = Ema(model, decay=0.95, warmup=True)
    model.load_state_dict(network(1.0).state_dict())
    ema.update(model, step=step)
    torch.testing.assert_close(ema.state_dict()["0.bias"], torch.full((2,), 1 - decay))


def test_it_is_a_copy_without_gradients_in_eval_mode() -> None:
    model = network(1.0)
    ema = Ema(model, decay=0.9)
    assert not ema.module.training
    assert not any(parameter.requires_grad for parameter in ema.module.parameters())
    assert model.training
    with torch.no_grad():
        model.get_parameter("0.weight").zero_()
    assert torch.equal(ema.state_dict()["0.weight"], torch.ones(2, 2))


def test_state_goes_round() -> None:
    ema, other = Ema(network(2.0), decay=0.9), Ema(network(0.0), decay=0.9)
    other.load_state_dict(ema.state_dict())
    assert all(torch.equal(value, other.state_dict()[name]) for name, value in ema.state_dict().items())
    with pytest.raises(RuntimeError, match="Missing key"):
        other.load_state_dict({})
