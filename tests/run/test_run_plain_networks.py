"""Runs of networks without anything of timm's interface, alone, killed, on two processes, and opened again."""

from __future__ import annotations

import importlib
import json
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import mixcore
from mixcore.cli.main import main
from mixcore.errors import CheckpointError, ConfigError, PreemptedError
from mixcore.networks.network import capabilities
from mixcore.step.step import TrainingStep

SOURCE = '''
import attrs
import torch
import torchvision
from mixcore.api import Data, Resident, Task, as_backbone, hookimpl
from mixcore_toy import ToyData
from torch import nn


@attrs.define(eq=False, kw_only=True)
class Output:
    logits: torch.Tensor


class Net(nn.Module):
    """BatchNorm, dropout, and nothing of timm's; it gives an output with logits."""

    def __init__(self, channels, classes):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(channels, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.drop, self.end = nn.Dropout(0.2), nn.Linear(8, classes)

    def forward(self, images):
        return Output(logits=self.end(self.drop(self.body(images).mean((2, 3)))))


@attrs.define(eq=False, kw_only=True)
class Own:
    """The network above."""

    role = "backbone"

    @hookimpl
    def build_backbone(self, task: Task) -> nn.Module:
        return Net(task.in_channels, task.num_classes)


@attrs.define(eq=False, kw_only=True)
class Wrapped:
    """torchvision's ResNet-18 with timm's interface."""

    role = "backbone"

    @hookimpl
    def build_backbone(self, task: Task) -> nn.Module:
        net = torchvision.models.resnet18(num_classes=task.num_classes)
        return as_backbone(net, features="layer4", classifier="fc", image_size=task.image_size)


@attrs.define(eq=False, kw_only=True)
class Squares:
    """The toy data on images of 16x16."""

    role = "data"

    @hookimpl
    def build_data(self) -> Data:
        data = ToyData().build_data()
        def enlarged(part):
            return attrs.evolve(part, images=part.images.repeat_interleave(2, 2).repeat_interleave(2, 3))
        task = attrs.evolve(data.task, image_size=(16, 16))
        return attrs.evolve(data, train=enlarged(data.train), validation=enlarged(data.validation), task=task)
'''
ENTRIES = {"own": "fake_nets:Own", "wrapped": "fake_nets:Wrapped", "squares": "fake_nets:Squares"}
INPUT = "mix={name='puzzlemix'}"
MANIFOLD = "mix={name='manifoldmix', layers=[0, 'body']}"
NUMBERED = "mix={name='manifoldmix', layers=[0, 2]}"
LEARNED = "mix={name='automix', stage='layer3', momentum=0.5, momentum_end=0.5}"


@pytest.fixture
def nets(toy_config: Path, install: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> Path:
    install(ENTRIES, {"fake_nets": SOURCE}, distribution="fake-nets")
    text = toy_config.read_text().replace("toy_data", "squares").replace("toy_net", "own")
    toy_config.write_text(text.replace("epochs = 4", "epochs = 2").replace("[train]", "[train]\nema_decay = 0.5"))
    return toy_config


def tensors(folder: Path, key: str) -> dict[str, Any]:
    return torch.load(folder / "checkpoints" / "last.pt", weights_only=True)[key]


def assert_equal_runs(one: Path, other: Path) -> None:
    assert (one / "metrics.jsonl").read_bytes() == (other / "metrics.jsonl").read_bytes()
    for key in ("step", "ema"):
        ours, theirs = tensors(one, key), tensors(other, key)
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(value, theirs[name]) for name, value in ours.items()), key


class KilledError(Exception):
    """Ends a run in the middle: what it has not saved is lost, as by SIGKILL."""


def interrupted(start: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, *overrides: str) -> Path:
    """A run that dies in its second epoch, then is stopped there by a signal, and ends at the third start."""
    real = TrainingStep.after_step

    def ending(how: Callable[[], object]) -> Callable[[TrainingStep], None]:
        def after_step(step: TrainingStep) -> None:
            real(step)
            if step._last is not None and step._last.iteration == 4:
                how()

        return after_step

    def die() -> None:
        raise KilledError

    for how, error in ((die, KilledError), (partial(signal.raise_signal, signal.SIGTERM), PreemptedError)):
        with monkeypatch.context() as patch:
            patch.setattr(TrainingStep, "after_step", ending(how))
            with pytest.raises(error):
                start(*overrides, folder="stopped")
    return start(*overrides, folder="stopped")


@pytest.mark.parametrize(
    ("backbone", "mix"),
    [
        pytest.param("own", INPUT, id="own-input"),
        pytest.param("own", MANIFOLD, id="own-stage"),
        pytest.param("wrapped", NUMBERED, id="resnet18-stage"),
        pytest.param("wrapped", LEARNED, id="resnet18-head", marks=pytest.mark.slow),
    ],
)
def test_a_run_is_resumed_to_the_bit_and_opened_again(
    backbone: str, mix: str, nets: Path, toy_run: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = (f"backbone.name={backbone}", mix)
    whole = toy_run(*settings, folder="whole")
    assert_equal_runs(interrupted(toy_run, monkeypatch, *settings), whole)

    record = json.loads((whole / "metrics.jsonl").read_text().splitlines()[-1])
    opened = mixcore.load_run(whole, checkpoint="last")
    scores = opened.evaluate()
    assert {"model", "ema"} <= scores.keys()
    for name, found in scores.items():
        assert found["top1"] == record[f"val/top1/{name}"]
    weights = [opened.predictors[name][0].parameters() for name in ("model", "ema")]
    assert not all(torch.equal(last, average) for last, average in zip(*weights, strict=True))
    assert ("head" in capabilities(opened.model)) == (backbone == "wrapped")
    assert main(["eval", str(whole), "--checkpoint", "last", "--json", "scores.json"]) == 0
    told = json.loads(Path("scores.json").read_text())["predictors"]
    assert told["ema"]["top1"] == record["val/top1/ema"]

    for what, name in ((str(nets), "config.png"), (str(whole), "folder.png")):
        extra = [part for setting in settings for part in ("--set", setting)] if what == str(nets) else []
        assert main(["show", what, "--out", name, *extra]) == 0
        assert Path(name).stat().st_size > 0
    pictures = EventAccumulator(str(whole)).Reload().Tags()["images"]
    assert "mix/images" in pictures
    assert ("mix/masks/automix" in pictures) == (mix == LEARNED), "only a learned mixer previews its masks"


def test_a_checkpoint_of_another_network_is_refused(nets: Path, toy_run: Callable[..., Path]) -> None:
    folder = toy_run("schedule.epochs=1", "mix.name=mixup")
    with pytest.raises(CheckpointError, match="do not fit this network"):
        mixcore.load_run(folder, overrides=("backbone.name=wrapped",))


@pytest.mark.parametrize(
    ("mix", "said"),
    [
        ("mix={name='automix', stage='body'}", r"automix .* needs head of the backbone.*as_backbone"),
        ("mix={name='manifoldmix', layers=[1]}", r"wants stage 1.* stage 0 \(the input\) only.*as_backbone"),
        ("mix={name='manifoldmix', layers=['bdy']}", r"Net has no stage 'bdy'.* any module that puts out"),
        ("mix={name='saliencymix', saliency='class_activation'}", r"needs class_activation .*fine_grained"),
    ],
)
def test_what_the_network_cannot_do_is_refused_before_training(
    mix: str, said: str, nets: Path, toy_run: Callable[..., Path]
) -> None:
    with pytest.raises(ConfigError, match=said):
        toy_run(mix)
    assert not Path("run/metrics.jsonl").exists()


@pytest.mark.ddp
@pytest.mark.parametrize(
    ("backbone", "mix"),
    [
        pytest.param("own", MANIFOLD, id="own"),
        pytest.param("wrapped", LEARNED, id="resnet18", marks=pytest.mark.slow),
    ],
)
def test_two_processes_of_a_run_train_one_network(backbone: str, mix: str, nets: Path) -> None:
    """The record of rank 0 is that of both: every image is scored once, by one set of weights."""
    processes = importlib.import_module("toy_processes")
    settings = [f"backbone.name={backbone}", mix.replace("}", ", group_size=4}"), "schedule.epochs=1"]
    assert processes.finish(processes.start(nets, settings, "two", world=2)) == [0, 0]
    record = json.loads(Path("two/metrics.jsonl").read_text())
    scores = mixcore.load_run(Path("two"), checkpoint="last").evaluate()
    assert scores["ema"]["top1"] == record["val/top1/ema"]
    assert scores["model"]["loss"] == pytest.approx(record["val/loss"], rel=1e-5)
    assert scores["model"]["count"] == 13
