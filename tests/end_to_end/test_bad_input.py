"""What bad input gets, from the outside: one message, the right exit code, no traceback, nothing lost.

Each room tests its own refusals in detail; here every one of them goes through the command line.
"""

from __future__ import annotations

import errno
import shutil
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image

from mixcore.cli.main import main

Say = Callable[..., str]


@pytest.fixture
def refused(toy_config: Path, capsys: pytest.CaptureFixture[str]) -> Say:
    """`refused("mix.alhpa=1", code=2)`: the one message that `mixcore run` ends with."""

    def run(*overrides: str, code: int = 2, more: tuple[str, ...] = ()) -> str:
        sets = [word for override in overrides for word in ("--set", override)]
        assert main(["run", str(toy_config), *sets, *more]) == code
        message = capsys.readouterr().err
        assert "Traceback" not in message
        assert [line for line in message.splitlines() if line.startswith("mixcore: ")] == message.splitlines()[:1]
        return message

    return run


def picture(path: Path, shade: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (16, 16), (shade, 0, 0)).save(path)


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    """An image folder with two classes and four images of each in both splits."""
    root = tmp_path / "images"
    for split in ("train", "val"):
        for name in ("cat", "dog"):
            for index in range(4):
                picture(root / split / name / f"{index}.png", index)
    return root


def image_folder(root: Path) -> tuple[str, ...]:
    return ("data.name=image_folder", f"data.root={root}", "data.size=8", "data.batch_size=4", "schedule.epochs=1")


def test_unknown_method(refused: Say) -> None:
    message = refused("mix.name=cutmixx")
    assert "cutmix" in message
    assert "mixup" in message


def test_unknown_backbone(refused: Say) -> None:
    assert "resnet18" in refused("backbone.name=resnet_18")


def test_misspelt_key(refused: Say) -> None:
    assert "alpha" in refused("mix.name=cutmix", "mix.alhpa=1.0")


def test_wrong_type_and_range_in_one_message(refused: Say) -> None:
    message = refused("mix.name=cutmix", "mix.alpha=-1.0", "optimizer.lr=fast", "schedule.epochs=0")
    assert "alpha" in message
    assert "-1.0" in message
    assert "optimizer.lr" in message
    assert "schedule.epochs" in message


def test_broken_toml(refused: Say, toy_config: Path) -> None:
    toy_config.write_text("[mix\nname = 3")
    assert "toy.toml" in refused()


def test_missing_file(refused: Say, toy_config: Path) -> None:
    toy_config.unlink()
    assert "toy.toml" in refused()


def test_missing_data(refused: Say, tmp_path: Path) -> None:
    message = refused("data.name=cifar10", f"data.root={tmp_path / 'nowhere'}")
    assert str(tmp_path / "nowhere") in message
    assert "download" in message


def test_empty_image_folder(refused: Say, tmp_path: Path) -> None:
    (tmp_path / "empty" / "train").mkdir(parents=True)
    assert "empty" in refused(*image_folder(tmp_path / "empty"))


def test_class_folders_that_differ(refused: Say, folders: Path) -> None:
    shutil.move(folders / "val" / "dog", folders / "val" / "wolf")
    message = refused(*image_folder(folders))
    assert "dog" in message
    assert "wolf" in message


def test_corrupt_image_is_named(refused: Say, folders: Path) -> None:
    (folders / "train" / "cat" / "2.png").write_bytes(b"no picture")
    message = refused(*image_folder(folders), "data.workers=0", code=1)
    assert "2.png" in message
    assert "on_corrupt" in message


def test_labels_out_of_range(refused: Say, install: Callable[..., None]) -> None:
    source = """
import attrs, torch
from mixcore.api import Data, Resident, Task, hookimpl

@attrs.define(eq=False, kw_only=True)
class Odd:
    role = "data"

    @hookimpl
    def build_data(self):
        split = Resident(images=torch.zeros(8, 3, 8, 8, dtype=torch.uint8), labels=torch.arange(8))
        task = Task(num_classes=3, in_channels=3, image_size=(8, 8), mean=(0.5,) * 3, std=(0.5,) * 3)
        return Data(train=split, validation=split, task=task)
"""
    install({"odd": "odd_data:Odd"}, {"odd_data": source})
    message = refused("data.name=odd")
    assert "7" in message
    assert "3" in message


def test_a_stage_that_the_backbone_lacks(refused: Say, install: Callable[..., None]) -> None:
    source = """
import attrs
from mixcore.api import Mix, hookimpl

@attrs.define(eq=False, kw_only=True)
class Deep:
    role = "mix"
    stages = ("layer9",)

    @hookimpl
    def generate_mix(self, images):
        return Mix.clean(images)
"""
    install({"deep": "deep_mix:Deep"}, {"deep_mix": source})
    assert "layer9" in refused("mix.name=deep")


def test_two_plugins_claim_one_name(refused: Say, install: Callable[..., None]) -> None:
    install({"twice": "first:A"}, distribution="first-one")
    install({"twice": "second:B"}, distribution="second-one")
    message = refused("mix.name=twice")
    assert "first-one" in message
    assert "second-one" in message


def test_a_plugin_that_fails_at_import(refused: Say, install: Callable[..., None]) -> None:
    install({"broken": "broken_plugin:A"}, {"broken_plugin": "import no_such_module_at_all"}, distribution="broken-one")
    message = refused("mix.name=broken")
    assert "broken-one" in message
    assert "no_such_module_at_all" in message


def test_a_plugin_for_another_specification(refused: Say, install: Callable[..., None]) -> None:
    source = "import attrs\n\n@attrs.define(eq=False)\nclass A:\n    role = 'mix'\n    spec_version = (9, 0)\n"
    install({"late": "late_plugin:A"}, {"late_plugin": source}, distribution="late-one")
    message = refused("mix.name=late")
    assert "9.0" in message
    assert "upgrade" in message


def test_a_broken_plugin_that_nobody_selected_stops_nothing(
    toy_config: Path, install: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    install({"broken": "broken_plugin:A"}, {"broken_plugin": "raise RuntimeError"})
    assert main(["run", str(toy_config), "--set", "schedule.epochs=1"]) == 0
    capsys.readouterr()


def test_batch_size_that_processes_cannot_share(refused: Say) -> None:
    message = refused("data.batch_size=7", more=("--nproc", "2"))
    assert "7" in message
    assert "2" in message


def test_port_in_use(refused: Say, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        monkeypatch.delenv("MASTER_ADDR", raising=False)
        monkeypatch.setenv("MASTER_PORT", str(port))
        for name, value in {"RANK": 0, "WORLD_SIZE": 2}.items():
            monkeypatch.setenv(name, str(value))
        message = refused()
        assert f"the processes cannot meet at 127.0.0.1:{port}: " in message
        assert "--set run.port=PORT" in message


def test_run_folder_that_cannot_be_written(refused: Say, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert "file" in refused(f"run.dir={tmp_path / 'file' / 'run'}")


def test_full_disk(refused: Say, toy_config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    assert main(["run", str(toy_config)]) == 0
    checkpoints = Path("run/checkpoints")
    Path("run/summary.json").unlink()
    shutil.copy(checkpoints / "previous.pt", checkpoints / "last.pt")  # an epoch is left to train
    before = (checkpoints / "last.pt").read_bytes()
    monkeypatch.setattr(torch, "save", full)
    assert "No space left" in refused(code=1)
    assert (checkpoints / "last.pt").read_bytes() == before


def test_truncated_checkpoint(refused: Say, toy_config: Path) -> None:
    assert main(["run", str(toy_config)]) == 0
    last = Path("run/checkpoints/last.pt")
    last.write_bytes(last.read_bytes()[:100])
    Path("run/summary.json").unlink()
    message = refused()
    assert "last.pt" in message
    assert "--resume-from previous" in message


def test_folder_of_another_configuration(refused: Say, toy_config: Path) -> None:
    assert main(["run", str(toy_config)]) == 0
    assert "optimizer.lr" in refused("optimizer.lr=0.5")


def test_a_loss_that_is_not_finite(refused: Say) -> None:
    message = refused("mix.nan_at=4", code=1)
    for word in ("epoch", "iteration", "lam", "toy_mix", "fp32"):
        assert word in message


def test_debug_shows_the_traceback(toy_config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--debug", "run", str(toy_config), "--set", "mix.name=cutmixx"]) == 2
    assert "Traceback" in capsys.readouterr().err


def test_groups_that_do_not_divide_a_batch(refused: Say) -> None:
    message = refused("mix.group_size=3")
    assert "3" in message
    assert "8 images" in message


def test_groups_with_repeated_augmentation(refused: Say, folders: Path) -> None:
    assert "data.repeats" in refused(*image_folder(folders), "data.repeats=3", "mix.group_size=2")


def test_a_run_folder_in_use(refused: Say, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def taken(*_: object) -> None:
        raise OSError(errno.EAGAIN, "Resource temporarily unavailable")

    monkeypatch.setattr("fcntl.lockf", taken)
    message = refused(f'run.dir="{tmp_path}/taken"')
    assert "another process is training" in message
