"""Averaged weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from mixcore.errors import ConfigError
from mixcore.run.resolve import load_config
from mixcore.train.ema import Ema, linear_decay


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
    ema.update(model, 1, 0)
    assert torch.equal(ema.state_dict()["0.weight"], torch.ones(2, 2)), "the first step copies"
    model.load_state_dict(network(3.0).state_dict())
    ema.update(model, 2, 1)
    state = ema.state_dict()
    torch.testing.assert_close(state["0.weight"], torch.full((2, 2), 0.9 * 1 + 0.1 * 3))
    torch.testing.assert_close(state["1.running_mean"], torch.full((2,), 1.2))
    assert state["1.num_batches_tracked"] == 3, "integers are copied"


@pytest.mark.parametrize(("step", "decay"), [(2, 1 - 2 ** (-2 / 3)), (8, 0.75), (1000, 0.95)])
def test_warmup(step: int, decay: float) -> None:
    model = network(0.0)
    ema = Ema(model, decay=0.95, warmup=True)
    model.load_state_dict(network(1.0).state_dict())
    ema.update(model, step, step - 1)
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


def test_linear_warmup_is_the_published_line() -> None:
    """ConvNeXt on ImageNet: 0.9999 from 0.9 of it on, over 20 epochs of 626 micro-batches."""
    warmup = 20 * 626
    stated = [0.9999 * (1 - (1 - min(t, warmup) / warmup) * 0.1) for t in (0, 1, 6260, warmup - 1, warmup, 10**6)]
    found = [linear_decay(0.9999, t, warmup) for t in (0, 1, 6260, warmup - 1, warmup, 10**6)]
    assert found == pytest.approx(stated, rel=1e-14)
    assert (found[0], found[2], found[-1]) == (pytest.approx(0.89991), pytest.approx(0.949905), 0.9999)


def test_linear_warmup_averages_from_the_first_step_on_and_leaves_buffers_to_the_network() -> None:
    model = network(0.0)
    ema = Ema(model, decay=0.9, warmup="linear", warmup_iterations=10, buffers=False)
    expected = 0.0
    for step, (value, iteration) in enumerate([(1.0, 1), (3.0, 3), (2.0, 11)], 1):
        model.load_state_dict(network(value).state_dict())
        ema.update(model, step, iteration)
        decay = 0.9 * (1 - (1 - min(iteration / 10, 1)) * 0.1)
        expected = decay * expected + (1 - decay) * value
        state = ema.state_dict()
        for name in ("0.weight", "0.bias", "1.weight", "1.bias"):
            torch.testing.assert_close(state[name], torch.full_like(state[name], expected))
        assert all(bool((state[f"1.{name}"] == value).all()) for name in ("running_mean", "running_var"))


def test_names_and_booleans_of_a_warmup_are_one(toy_config: Path) -> None:
    def digest(*overrides: str) -> str:
        return load_config(toy_config, ["train.ema_decay=0.9", *overrides]).digest

    assert digest() == digest("train.ema_warmup=false") == digest("train.ema_warmup=none")
    assert digest("train.ema_warmup=true") == digest("train.ema_warmup=timm") != digest()
    linear = load_config(toy_config, ["train.ema_warmup=linear", "train.ema_warmup_epochs=2"])
    assert linear.config.train.ema_warmup == "linear"
    for wrong in (["train.ema_warmup=linear"], ["train.ema_warmup_epochs=2"]):
        with pytest.raises(ConfigError, match="a linear warm-up needs a number of epochs, and no other takes one"):
            load_config(toy_config, wrong)


def test_a_run_updates_the_average_once_per_optimizer_step(toy_run: Callable[..., Path]) -> None:
    """Micro-batches 1, 3, 5 of six end a step; the line over two epochs of three begins at their number."""
    settings = [
        "train.ema_decay=0.9",
        "train.ema_warmup=linear",
        "train.ema_warmup_epochs=2",
        "train.ema_buffers=false",
    ]
    seen: list[tuple[int, int]] = []
    update = Ema.update
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Ema, "update", lambda self, model, *at: (seen.append(at), update(self, model, *at)))
        folder = toy_run(*settings, "train.accumulate=2", "schedule.epochs=2")
    assert seen == [(1, 1), (2, 3), (3, 5)]
    saved = torch.load(folder / "checkpoints" / "last.pt", weights_only=True)
    for name in ("norm.running_mean", "norm.running_var"):
        assert torch.equal(saved["ema"][name], saved["step"][f"model.{name}"])
    assert not torch.equal(saved["ema"]["conv.weight"], saved["step"]["model.conv.weight"])
