"""The published settings of regression: complete configurations, as the documents have them."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest

from mixcore.config.layers import Layer
from mixcore.entry_points import entries_in
from mixcore.ledger.benchmarks import benchmark, experiment
from mixcore.run.resolve import load_layers

BACKBONES = {
    "agedb": ("resnet50", "convnext_tiny", "vit_small"),
    "imdb-wiki": ("resnet50", "convnext_tiny", "vit_small"),
    "rcfmnist": ("resnet18", "resnet50", "convnext_tiny"),
}
EPOCHS = {"agedb": 400, "imdb-wiki": 200, "rcfmnist": 400}


@pytest.mark.parametrize("name", BACKBONES)
def test_every_experiment_is_a_configuration_without_fault(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    once = cache(entries_in)  # nothing is installed between two configurations
    for module in ("mixcore.discovery.catalogue", "mixcore.ledger.benchmarks"):
        monkeypatch.setattr(f"{module}.entries_in", once)
    found = benchmark(name)
    assert set(found.backbones) == set(BACKBONES[name])
    assert set(found.methods) == {"vanilla", "mixup", "cmixup"}
    assert found.about.epochs == (EPOCHS[name],)
    for one in found.experiments():
        config = load_layers([*one.layers, Layer({}, {}, "--set")], Path(one.id), one.id).config
        assert config.eval.protocol == "best"
        assert (config.optimizer.lr, config.schedule.min_lr) == (1e-3, 1e-6)
        assert config.data.batch_size == (100 if name == "rcfmnist" else 256)


@pytest.mark.parametrize("name", ["agedb", "imdb-wiki"])
def test_transformers_have_a_schedule_of_their_own(name: str) -> None:
    plain, other = (experiment(f"{name}.{backbone}.cmixup").tree for backbone in ("resnet50", "vit_small"))
    assert (plain["schedule"]["clock"], other["schedule"]["clock"]) == ("epoch", "iteration")
    assert "exempt" not in plain["optimizer"]
    assert other["optimizer"]["exempt"] == ["norm_bias", "no_weight_decay"]
    assert other["data"]["rand_augment"] == "rand-m9-mstd0.5-inc1"
    for tree in (plain, other):
        assert tree["mix"] == {"name": "cmixup", "bandwidth": 5.0}
        assert (tree["data"]["flip"], tree["data"]["scale"]) == (0.5, [0.5, 1.0])
        assert tree["loss"]["name"] == "l1"


def test_angles_are_never_mirrored() -> None:
    tree = experiment("rcfmnist.resnet18.mixup").tree
    assert (tree["data"]["flip"], tree["data"]["crop_padding"]) == (0.0, 2)
    assert (tree["optimizer"]["name"], tree["optimizer"]["weight_decay"]) == ("adam", 0.0)
