"""A run gives its plugins the maps and further augmentations that they declare, or refuses before it starts."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from mixcore.discovery.manager import build_plugins
from mixcore.errors import ConfigError
from mixcore.run.resolve import load_config
from mixcore.run.trial import try_run

SOURCE = '''
import attrs
import torch
from mixcore.api import hookimpl
from mixcore_toy import ToyData


@attrs.define(eq=False, kw_only=True)
class Mapped:
    """The toy data with a map."""

    role = "data"
    count: int = 24
    called: str = "objects"

    @hookimpl
    def build_data(self):
        data = ToyData().build_data()
        count, _, height, width = data.train.images.shape
        map = torch.full((count, 1, height, width), 51, dtype=torch.uint8)
        return attrs.evolve(data, train=attrs.evolve(data.train, maps={self.called: map}))


@attrs.define(eq=False, kw_only=True)
class Watcher:
    """Logs what it was given."""

    maps = ("objects",)
    augmentations = 2

    @hookimpl
    def extra_losses(self, batch):
        return {"map": batch.maps["objects"].mean(), "count": batch.images.new_tensor(float(len(batch.augmented)))}
'''


@pytest.fixture
def watched(toy_config: Path, install: Callable[..., None]) -> Path:
    entries = {"mapped": "fake_mapped:Mapped", "watcher": "fake_mapped:Watcher"}
    install(entries, {"fake_mapped": SOURCE}, distribution="fake-mapped")
    toy_config.write_text(toy_config.read_text().replace("toy_data", "mapped") + '[[extra]]\nname = "watcher"\n')
    return toy_config


def test_a_run_gives_what_its_plugins_declare(watched: Path, toy_run: Callable[..., Path]) -> None:
    folder = toy_run("schedule.epochs=1")
    record = json.loads((folder / "metrics.jsonl").read_text().splitlines()[0])
    found = {tag.rpartition("/")[2]: value for tag, value in record.items()}
    assert found["map"] == pytest.approx(0.2)
    assert found["count"] == 2


def test_a_map_that_the_data_does_not_give_is_refused_before_training(watched: Path) -> None:
    config = load_config(watched, ("data.called=depth",)).config
    with pytest.raises(
        ConfigError, match=r"watcher \(fake-mapped 1\.0\) reads the map objects, and mapped gives the maps depth"
    ):
        try_run(config, build_plugins(config))


def test_the_tried_iteration_has_them_too(watched: Path) -> None:
    config = load_config(watched, ()).config
    try_run(config, build_plugins(config))
