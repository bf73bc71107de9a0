"""A run gives its plugins the maps and further augmentations that they declare, or refuses before it starts."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from tensorboard.backend.event_processing import event_accumulator

from mixcore.cli.main import main
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


PICTURED = '''

from mixcore.api import Mix, Saliency, as_saliency


@attrs.define(eq=False, kw_only=True)
class Stored:
    """A saliency from a map."""

    role = "saliency"
    spec_version = (1, 2)
    maps = ("objects",)

    @hookimpl
    def map_saliency(self, batch):
        return batch.maps["objects"].mean(1)


@attrs.define(eq=False, kw_only=True)
class Pictured:
    """As much of each image as its map says."""

    role = "mix"
    spec_version = (1, 2)
    provides = frozenset({"mask"})
    saliency: Saliency = attrs.field(default=Saliency("stored"), converter=as_saliency)
    """A map."""

    def mixed(self, images, labels, probe, partner):
        mask = probe.saliency(self.saliency, images, labels)[:, None]
        mixed = images * mask + images[partner] * (1 - mask)
        return Mix.pair(mixed, partner, mask.mean((1, 2, 3)), mask)

    @hookimpl
    def generate_mix(self, images, labels, probe):
        return self.mixed(images, labels, probe, torch.arange(len(images), device=images.device).roll(1))

    @hookimpl
    def preview_mix(self, images, labels, probe, partner, lam):
        return self.mixed(images, labels, probe, partner)
'''


@pytest.fixture
def watched(toy_config: Path, install: Callable[..., None]) -> Path:
    entries = {"mapped": "fake_mapped:Mapped", "watcher": "fake_mapped:Watcher"}
    entries |= {"stored": "fake_mapped:Stored", "pictured": "fake_mapped:Pictured"}
    install(entries, {"fake_mapped": SOURCE + PICTURED}, distribution="fake-mapped")
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


def test_masks_made_of_a_map_are_pictured_in_the_log_and_on_a_sheet(
    watched: Path, toy_run: Callable[..., Path], tmp_path: Path
) -> None:
    folder = toy_run("schedule.epochs=2", "mix.name=pictured")
    accumulator = event_accumulator.EventAccumulator(str(folder), size_guidance={"images": 0}).Reload()
    assert len(accumulator.Images("mix/masks/pictured")) == 2
    sheet = tmp_path / "sheet.png"
    assert main(["show", str(watched), "--set", "mix.name=pictured", "--rows", "2", "--out", str(sheet)]) == 0
    assert sheet.stat().st_size > 1000


def test_the_measured_mixer_has_its_map(watched: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "pictured", "--batch", "4", "--repeats", "1"]) == 0
    said = capsys.readouterr().out
    assert "skipped" not in said
    assert "pictured" in said
