"""What a dry run approves starts; what would fail in the first iteration is refused with exit 2."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from mixcore.cli.main import main

QUICKSTART = Path(__file__).resolve().parents[2] / "configs" / "quickstart.toml"
Say = Callable[..., str]


@pytest.fixture
def dry(toy_config: Path, capsys: pytest.CaptureFixture[str]) -> Say:
    """`dry("train.lr=1", code=2)`: what a dry run says on the stream that the code makes it use."""

    def run(*overrides: str, code: int = 2) -> str:
        sets = [word for override in overrides for word in ("--set", override)]
        assert main(["run", str(toy_config), *sets, "--dry-run"]) == code
        said = capsys.readouterr()
        assert not (toy_config.parent / "run").exists()
        return said.err if code else said.out

    return run


@pytest.mark.parametrize("key", ["optimizer.lr", "optimizer.weight_decay", "schedule.min_lr", "train.clip_grad"])
def test_infinite_numbers(dry: Say, key: str) -> None:
    assert f"{key}: '{key.partition('.')[2]}' must be a finite number" in dry(f"{key}=inf")


@pytest.mark.parametrize("value", ["1000000000000000000000000000000", "2147483648"])
def test_a_batch_beyond_all_sizes(dry: Say, value: str) -> None:
    assert "data.batch_size: " in dry(f"data.batch_size={value}")


SIZED = """
import attrs, torch
from torch import nn
from mixcore.api import Data, Mix, Resident, Task, hookimpl

@attrs.define(eq=False, kw_only=True)
class Halving:
    role = "mix"

    @hookimpl
    def generate_mix(self, images):
        if images.shape[-1] % 16:
            raise ValueError(f"{images.shape[-1]} pixels cannot be halved four times")
        return Mix.clean(images)

class Net(nn.Module):
    num_features = 4
    feature_info = ()

    def __init__(self, width, classes):
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(width, 4), nn.BatchNorm1d(4))
        self.fc = nn.Linear(4, classes)

    def forward_features(self, images):
        return self.body(images)

    def forward_head(self, features, pre_logits=False):
        return features if pre_logits else self.fc(features)

    def get_classifier(self):
        return self.fc

    def forward(self, images):
        return self.forward_head(self.forward_features(images))

@attrs.define(eq=False, kw_only=True)
class Flat:
    role = "backbone"

    @hookimpl
    def build_backbone(self, task):
        return Net(task.in_channels * task.image_size[0] * task.image_size[1], task.num_classes)

@attrs.define(eq=False, kw_only=True)
class Nothing:
    role = "backbone"

    @hookimpl
    def build_backbone(self, task):
        return nn.Identity
"""


@pytest.fixture
def sized(install: Callable[..., None]) -> None:
    entries = {"halving": "fake_sized:Halving", "flat": "fake_sized:Flat", "nothing": "fake_sized:Nothing"}
    install(entries, {"fake_sized": SIZED}, distribution="fake-sized")


def test_a_size_that_a_mixer_cannot_halve(sized: None, dry: Say) -> None:
    message = dry("mix.name=halving")
    assert "the first iteration with the mixer halving (fake-sized 1.0) fails: " in message
    assert "8 pixels cannot be halved four times" in message


def test_a_network_that_is_no_backbone(sized: None, dry: Say) -> None:
    assert "building the run fails: build_backbone of nothing" in dry("backbone.name=nothing")


def test_every_mixer_is_tried(sized: None, dry: Say) -> None:
    assert "halving" in dry('mix=[{name="none", probability=0.9}, {name="halving", probability=0.1}]')
    dry('mix=[{name="none", probability=1.0}, {name="halving", probability=0.0}]', code=0)


def test_one_image_with_batch_norm(sized: None, dry: Say) -> None:
    message = dry("backbone.name=flat", "data.batch_size=1")
    assert "BatchNorm in train mode needs more than one value per channel" in message
    assert "set data.batch_size to 2 or more" in message
    dry("backbone.name=flat", "data.batch_size=2", code=0)
    dry("data.batch_size=1", code=0)  # BatchNorm over the 64 positions of one image


def test_an_iteration_whose_loss_is_not_finite(dry: Say) -> None:
    assert "the first iteration with the mixer toy_mix" in dry("mix.nan_at=0")
    dry("mix.nan_at=1", code=0)


def test_groups_and_accumulation(dry: Say) -> None:
    dry("mix.group_size=4", "train.accumulate=3", "train.ema_decay=0.9", "train.clip_grad=1.0", code=0)


def test_a_folder_below_a_file(dry: Say, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    message = dry("run.dir=file/run")
    assert "run.dir: the run folder file/run cannot be written" in message
    assert "is no directory" in message


@pytest.mark.parametrize("broken", [None, "[mix", "seed = [1,\n2", "\0"])
def test_a_file_that_cannot_be_read_is_refused_before_torch_is_imported(tmp_path: Path, broken: str | None) -> None:
    path = tmp_path / "broken.toml"
    if broken is not None:
        path.write_text(broken)
    code = (
        "import sys\nfrom mixcore.cli.main import main\n"
        "code = main(['run', sys.argv[1]])\n"
        "print(code, [m for m in ('torch', 'timm', 'numpy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "2 []"
    assert "broken.toml" in done.stderr


def test_the_sequence_of_the_readme(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The quickstart, the same with another method, and a dry run of the first."""
    monkeypatch.chdir(tmp_path)
    text = QUICKSTART.read_text().replace("epochs = 10", "epochs = 1")
    assert "epochs = 1\n" in text
    path = tmp_path / "quickstart.toml"
    path.write_text(text)
    assert main(["run", str(path)]) == 0
    assert main(["run", str(path), "--set", "mix.name=mixup"]) == 0
    assert "runs/quickstart-mix.name=mixup" in capsys.readouterr().out
    assert sorted(folder.name for folder in Path("runs").iterdir()) == ["quickstart", "quickstart-mix.name=mixup"]
    assert main(["run", str(path), "--set", "run.dir=runs/quickstart", "--set", "mix.name=mixup", "--dry-run"]) == 0
    assert main(["run", str(path), "--dry-run"]) == 0
    assert "# run folder: runs/quickstart\n" in capsys.readouterr().out


TALKING = """
import attrs
from mixcore.api import ConfigError, Mix, hookimpl

@attrs.define(eq=False, kw_only=True)
class Talking:
    role = "mix"

    least: int = 0

    @hookimpl
    def check(self, task, iterations):
        if iterations < self.least:
            raise ConfigError(f"{iterations} iterations of {task.num_classes} classes are too few")
        return ["mind the\\ngap"]

    @hookimpl
    def generate_mix(self, images):
        return Mix.clean(images)
"""


@pytest.fixture
def talking(install: Callable[..., None]) -> None:
    install({"talking": "fake_talking:Talking"}, {"fake_talking": TALKING}, distribution="fake-talking")


def test_what_a_plugin_has_to_say(talking: None, dry: Say) -> None:
    assert "\n# talking: mind the gap\n" in dry("mix.name=talking", "mix.least=12", code=0)


def test_what_a_plugin_refuses_is_refused_before_the_network_is_built(talking: None, sized: None, dry: Say) -> None:
    message = dry("mix.name=talking", "mix.least=13", "backbone.name=nothing")
    assert "12 iterations of 3 classes are too few" in message
    assert "in check of talking (fake-talking 1.0)" in message


def test_a_run_says_it_once(talking: None, toy_config: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["run", str(toy_config), "--set", "mix.name=talking"]) == 0
    lines = capfd.readouterr().out.splitlines()
    assert lines[:2] == ["talking: mind the", "gap"]
    assert lines[2].startswith("epoch 1/4")
    assert sum("mind the" in line for line in lines) == 1
