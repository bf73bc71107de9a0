"""Statistics of BatchNorm measured on training images after every epoch."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from mixcore.discovery.manager import build_plugins
from mixcore.errors import ConfigError, PreemptedError
from mixcore.run.resolve import Loaded, load_config
from mixcore.run.session import Session, build_session, training_loader
from mixcore.train.agreement import Processes
from mixcore.train.precise_bn import measure_statistics

ALONE = Processes(device=torch.device("cpu"))


def opened(config: Path, *overrides: str) -> tuple[Loaded, Session]:
    loaded = load_config(config, overrides)
    return loaded, build_session(loaded.config, build_plugins(loaded.config), ALONE)


def by_hand(network: nn.Module, batches: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Mean over batches of each channel's mean and of its variance (unbiased), a batch counting by its images."""
    maps = [network.conv(images).detach().transpose(0, 1).flatten(1) for images in batches]
    weights = torch.tensor([float(len(images)) for images in batches])
    weights /= weights.sum()
    means, variances = (torch.stack([getattr(one, name)(1) for one in maps]) for name in ("mean", "var"))
    return weights @ means, weights @ variances


@pytest.mark.parametrize(
    ("images", "settings", "count"),
    [
        (16, (), 2),
        (20, (), 2),
        (1, (), 1),
        (10_000, (), 3),
        (10_000, ("data.drop_last=false",), 4),  # the last one has two images
    ],
)
def test_means_of_the_batches_statistics(toy_config: Path, images: int, settings: tuple[str, ...], count: int) -> None:
    loaded, session = opened(toy_config, f"train.precise_bn={images}", "train.ema_decay=0.9", *settings)
    state, epoch = session.state, 2
    assert state.ema is not None
    with torch.no_grad():
        state.ema.module.get_parameter("conv.weight").mul_(2)
    parameters = [parameter.clone() for parameter in state.step.parameters()]
    random_state = torch.get_rng_state()
    measure_statistics(state, session.loader, loaded.config, ALONE, epoch)
    assert torch.equal(torch.get_rng_state(), random_state)
    batches = [batch.images for batch in session.loader.epoch(state.epochs + epoch)][:count]
    for network in (state.step.model, state.ema.module):
        mean, variance = by_hand(network, batches)
        torch.testing.assert_close(network.norm.running_mean, mean)
        torch.testing.assert_close(network.norm.running_var, variance)
        assert (network.norm.momentum, int(network.norm.num_batches_tracked)) == (0.1, 0)
    assert state.step.model.training
    assert not state.ema.module.training
    assert all(torch.equal(a, b) for a, b in zip(state.step.parameters(), parameters, strict=True))


def test_without_it_statistics_stay(toy_config: Path) -> None:
    loaded, session = opened(toy_config)
    before = {name: value.clone() for name, value in session.state.step.state_dict().items() if name != "_extra_state"}
    measure_statistics(session.state, session.loader, loaded.config, ALONE, 0)
    after = session.state.step.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())


def test_a_network_without_statistics_is_refused(toy_config: Path) -> None:
    with pytest.raises(ConfigError, match=r"train\.precise_bn = 8, but the network has no BatchNorm.*set it to 0"):
        opened(toy_config, "train.precise_bn=8", "backbone.norm=false")


def test_a_run_evaluates_by_them_and_resumes_to_the_same_numbers(toy_run: Callable[..., Path]) -> None:
    settings = ("train.precise_bn=16", "train.ema_decay=0.5", "backbone.dropout=0.5")
    whole = toy_run(*settings, "mix.signal_at=-2", folder="whole")
    with pytest.raises(PreemptedError):
        toy_run(*settings, "mix.signal_at=7")
    again = toy_run(*settings, "mix.signal_at=7")
    assert (again / "metrics.jsonl").read_bytes() == (whole / "metrics.jsonl").read_bytes()
    ours, theirs = (torch.load(one / "checkpoints" / "last.pt", weights_only=True) for one in (again, whole))
    for key in ("step", "ema"):
        assert all(torch.equal(ours[key][name], theirs[key][name]) for name in theirs[key])
    plain = toy_run(*settings[1:], folder="plain")
    assert (plain / "metrics.jsonl").read_bytes() != (whole / "metrics.jsonl").read_bytes()


@pytest.mark.ddp
def test_two_processes_average_theirs(toy_config: Path) -> None:
    processes = importlib.import_module("toy_processes")
    settings = ["train.precise_bn=16", "schedule.epochs=1", "optimizer.lr=0.0", "optimizer.weight_decay=0.0"]
    assert processes.finish(processes.start(toy_config, settings, "run-{rank}", world=2)) == [0, 0]
    loaded, session = opened(toy_config, *settings)
    batches = []
    for rank in range(2):
        one = Processes(device=ALONE.device, rank=rank, world=2)
        loader = training_loader(loaded.config, build_plugins(loaded.config), session.data, one)
        batches += [batch.images for batch in loader.epoch(1, 0, 2)]
    assert [len(images) for images in batches] == [4] * 4
    saved = torch.load("run-0/checkpoints/last.pt", weights_only=True)["step"]
    mean, variance = by_hand(session.state.step.model, batches)
    torch.testing.assert_close(saved["model.norm.running_mean"], mean)
    torch.testing.assert_close(saved["model.norm.running_var"], variance)
