from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from click import Command
from click.testing import CliRunner
from PIL import Image

from mixcore.cli import eval as eval_verb
from mixcore.cli import show as show_verb
from mixcore.cli.main import main
from mixcore.errors import CheckpointError, ConfigError, RunFolderError, StorageError
from mixcore.logs.jsonl import read_records
from mixcore.pictures import sheet
from mixcore.step.step import TrainingStep

CONFIG = """
seed = 0
[data]
name = "fake"
batch_size = 8
size = 16
train_images = 24
validation_images = 13
[backbone]
name = "resnet10t"
[[mix]]
name = "cutmix"
alpha = 1.0
[[mix]]
name = "mixup"
alpha = 1.0
[optimizer]
lr = 0.02
[schedule]
epochs = 2
[train]
ema_decay = 0.5
[run]
device = "cpu"
"""


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "tiny.toml"
    path.write_text(CONFIG)
    return path


def show(*arguments: object) -> str:
    return invoke(show_verb.command, *arguments)


def evaluate(*arguments: object) -> str:
    return invoke(eval_verb.command, *arguments)


def invoke(command: Command, *arguments: object) -> str:
    return CliRunner().invoke(command, [str(one) for one in arguments], catch_exceptions=False).output


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path))


def test_writes_one_section_per_mixer_beside_the_caller(config: Path) -> None:
    assert show(config, "--rows", 2) == "tiny.png\n"
    both = pixels(Path("tiny.png"))
    show(config, "--rows", 2, "--set", "mix.name=cutmix", "--out", "one.png")
    one = pixels(Path("one.png"))
    assert both.shape[1] == one.shape[1]
    assert 1.7 < both.shape[0] / one.shape[0] < 2
    show(config, "--rows", 1, "--out", "short.png")
    assert both.shape[0] - pixels(Path("short.png")).shape[0] == 2 * 155  # a row: 128 pixels, caption and gap


def test_same_seed_same_picture_and_the_options_change_it(config: Path) -> None:
    # the heading names epoch and seed, so compare the rows of images only
    def images(*arguments: object) -> np.ndarray:
        show(config, "--rows", 1, "--out", "x.png", *arguments)
        return pixels(Path("x.png"))[150:]

    first = images()
    assert np.array_equal(first, images())
    assert not np.array_equal(first, images("--seed", 1))
    assert not np.array_equal(first, images("--epoch", 1))
    assert np.array_equal(images("--seed", 5), images("--set", "seed=5"))


def test_class_names_of_folders_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for split in ("train", "val"):
        for name, shade in (("ant", 40), ("bee", 200)):
            (tmp_path / "images" / split / name).mkdir(parents=True)
            for number in range(2):
                Image.new("RGB", (20, 20), (shade,) * 3).save(tmp_path / "images" / split / name / f"{number}.png")
    table = f'name = "image_folder"\nroot = "{tmp_path}/images"\nbatch_size = 4\nsize = 16'
    path = tmp_path / "folders.toml"
    path.write_text(re.sub(r"(?<=\[data\]\n).*?(?=\n\[)", table, CONFIG, flags=re.DOTALL))
    told: list[object] = []
    real = sheet.contact_sheet
    monkeypatch.setattr(
        sheet, "contact_sheet", lambda *given, **named: told.append(given[1].class_names) or real(*given, **named)
    )
    show(path, "--out", tmp_path / "x.png")
    assert told == [("ant", "bee")]


def test_names_what_is_wrong(config: Path) -> None:
    with pytest.raises(ConfigError, match=r"--epoch 2 is not in this run of 2 epochs, 0 to 1"):
        show(config, "--epoch", 2)
    with pytest.raises(StorageError, match=r"nowhere/x\.png could not be written.*--out"):
        show(config, "--out", "nowhere/x.png")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from mixcore.run.folder import RunFolder
    from mixcore.run.resolve import load_config
    from mixcore.run.run import run

    path = tmp_path_factory.mktemp("trained")
    (path / "tiny.toml").write_text(CONFIG)
    run(load_config(path / "tiny.toml"), RunFolder(path / "run"))
    return path / "run"


def test_eval_repeats_what_the_run_measured(trained: Path, tmp_path: Path) -> None:
    record = read_records(trained / "metrics.jsonl")[-1]
    out = tmp_path / "scores.json"
    printed = evaluate(trained, "--checkpoint", "last", "--json", out)
    found = json.loads(out.read_text())
    assert found["epoch"] == 2
    assert found["predictors"]["model"]["top1"] == record["val/top1/model"]
    assert found["predictors"]["ema"]["top1"] == record["val/top1/ema"]
    assert found["predictors"]["model"]["loss"] == pytest.approx(record["val/loss"], rel=1e-5)
    assert found["predictors"]["model"]["count"] == 13
    assert f"{record['val/top1']:.2f} %" in printed
    assert "ema" in printed


def test_eval_takes_other_weights_and_other_data(trained: Path, tmp_path: Path) -> None:
    out = tmp_path / "scores.json"
    first = max(read_records(trained / "metrics.jsonl"), key=lambda record: record["val/top1"])
    evaluate(trained, "--json", out)
    assert json.loads(out.read_text())["predictors"]["model"]["top1"] == first["val/top1"]
    evaluate(trained, "--checkpoint", trained / "checkpoints" / "previous.pt", "--json", out)
    assert json.loads(out.read_text())["epoch"] == 1
    evaluate(trained, "--set", "data.validation_images=7", "--json", out)
    assert json.loads(out.read_text())["predictors"]["model"]["count"] == 7


def test_eval_names_what_is_wrong(trained: Path, tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match=r"is no run folder: it has no config\.toml"):
        evaluate(tmp_path)
    with pytest.raises(CheckpointError, match=r"there is no checkpoint first; .* has: best, last, previous"):
        evaluate(trained, "--checkpoint", "first")
    with pytest.raises(CheckpointError, match="do not fit this network"):
        evaluate(trained, "--set", "backbone.name=resnet14t")
    with pytest.raises(StorageError, match="could not be written"):
        evaluate(trained, "--json", tmp_path / "nowhere" / "x.json")


def test_eval_of_a_named_set(trained: Path, tmp_path: Path) -> None:
    out = tmp_path / "scores.json"
    assert ", on train\n" in evaluate(trained, "--set-name", "train", "--json", out)
    found = json.loads(out.read_text())
    assert found["set"] == "train"
    assert found["predictors"]["ema"]["count"] == 24
    with pytest.raises(ConfigError, match=r"no evaluation set 'test'; this run's data has: val, train$"):
        evaluate(trained, "--set-name", "test")
    assert main(["eval", str(trained), "--set-name", "test"]) == 2


@pytest.mark.parametrize("verb", ["show", "eval"])
def test_help_needs_no_torch(verb: str) -> None:
    call = f"import sys, mixcore.cli.{verb} as verb; verb.command(['--help'], standalone_mode=False)"
    code = f"{call}; assert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "--set KEY=VALUE" in done.stdout


def test_show_of_a_run_folder_takes_its_best_weights(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    loaded: list[dict[str, torch.Tensor]] = []
    monkeypatch.setattr(TrainingStep, "load_saved_state", lambda _step, state: loaded.append(state))
    assert show(trained, "--rows", "1").strip() == f"{trained.name}.png"
    best = torch.load(trained / "checkpoints" / "best.pt", weights_only=True)["step"]
    (found,) = loaded
    assert all(torch.equal(value, found[name]) for name, value in best.items())
    with pytest.raises(RunFolderError, match=r"is no run folder: it has no config\.toml"):
        show(trained / "checkpoints")


def test_show_of_a_run_judged_by_its_averaged_weights(config: Path) -> None:
    config.write_text(config.read_text() + '[eval]\npredictor = "ema"\n')
    assert main(["run", str(config), "--set", "schedule.epochs=1", "--set", "run.dir=runs/tiny"]) == 0
    assert show("runs/tiny", "--rows", "1").strip() == "tiny.png"
    assert "ema" in evaluate("runs/tiny")
