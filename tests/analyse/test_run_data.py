"""What a loaded run offers an analysis, and that nothing of it changes the run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from mixcore.analyse.kept import kept
from mixcore.analyse.run_data import Headed, LoadedRunData, predictor_of
from mixcore.errors import ConfigError, DataError, PluginError
from mixcore.run.open import load_run
from mixcore.testing import TinyConvNet

Start = Callable[..., Path]


def opened(folder: Path) -> LoadedRunData:
    run = load_run(folder, checkpoint="last")
    name, model = predictor_of(run, None)
    return LoadedRunData(run=run, model=model, predictor=name, set_name="val")


def test_sets_mixes_passes_and_checkpoints(toy_run: Start) -> None:
    data = opened(toy_run("schedule.epochs=2"))
    before = {name: value.clone() for name, value in data.run.step.state_dict().items()}
    images, labels = next(data.batches())
    assert data.sets == ("val",)
    own, targets = data.mix(images, labels)
    assert own.images.shape == images.shape
    assert targets.weights.shape == own.weights.shape
    named, _ = data.mix(images, labels, mixer="cutmix", draw=3)
    again, _ = data.mix(images, labels, mixer="cutmix", draw=3)
    assert torch.equal(named.images, again.images)
    assert data.passes() == (1.0, 1.0)
    found = dict(data.checkpoints())
    assert list(found) == [1, 2]
    for name, value in data.model.state_dict().items():
        assert torch.equal(found[2][name], value), name
    for name, value in data.run.step.state_dict().items():  # but for the count of calls
        assert name == "_extra_state" or torch.equal(value, before[name]), name
    assert not any(module.training for module in data.run.model.modules())
    assert all(parameter.grad is None for parameter in data.run.model.parameters())


def test_other_data_in_the_shape_of_the_task(toy_run: Start) -> None:
    data = opened(toy_run("schedule.epochs=1"))
    task = data.run.task
    shape = {"size": task.image_size[0], "channels": task.in_channels, "validation_images": 5}
    (batch,) = data.other("fake", shape)
    assert batch.images.shape[1:] == (task.in_channels, *task.image_size)
    with pytest.raises(DataError, match="was trained on"):
        data.other("fake", {**shape, "size": 4 * task.image_size[0]})
    with pytest.raises(ConfigError, match="unknown key"):
        data.other("fake", {"sizes": 8})
    with pytest.raises(PluginError, match="no installed plugin is called"):
        data.other("fakes", {})


def test_a_network_is_kept() -> None:
    network = TinyConvNet(3)
    network.stage1.eval()
    with kept(network) as changed:
        network.train()
        network(torch.randn(2, 3, 8, 8)).sum().backward()
        with torch.no_grad():
            network.fc.weight.zero_()
        torch.manual_seed(5)
    assert "fc.weight" in changed
    assert "stage1.1.running_mean" in changed
    assert network.fc.weight.abs().sum() > 0
    assert not network.stage1.training
    assert network.fc.weight.grad is None
    with kept(network) as changed:
        network.eval()(torch.randn(2, 3, 8, 8))
    assert not changed


def test_a_predictor_with_a_head_of_its_own() -> None:
    network, head = TinyConvNet(3).eval(), nn.Linear(16, 7)
    images = torch.randn(2, 3, 8, 8)
    found = Headed(network, head)(images)
    assert torch.equal(found, head(network.forward_head(network.forward_features(images), pre_logits=True)))
