"""A run opened again from its folder: its numbers and predictors, without anything that trains."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import mixcore
from mixcore.errors import CheckpointError, ConfigError, DataError, PluginError, RunFolderError

Start = Callable[..., Path]

SOURCE = """
import attrs
import torch
from mixcore.api import Data, Resident, Task, hookimpl
from torch import nn
from torch.utils.data import Dataset


class Gone(Dataset):
    def __len__(self):
        raise AssertionError("the training set is asked for its length")

    def __getitem__(self, index):
        raise AssertionError("a training image is read")


def images(count, seed):
    rng = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 3
    noise = torch.randint(0, 86, (count, 3, 8, 8), generator=rng)
    return Resident(images=(noise + 80 * labels.view(-1, 1, 1, 1)).to(torch.uint8), labels=labels)


@attrs.define(eq=False, kw_only=True)
class Sets:
    \"\"\"A training set that may be gone, the validation set, and a harder one.\"\"\"

    role = "data"

    gone: bool = False
    \"\"\"Whether the training set cannot be read.\"\"\"

    @hookimpl
    def build_data(self):
        names = ("dark", "middling", "bright")
        task = Task(
            num_classes=3, in_channels=3, image_size=(8, 8), mean=(0.5,) * 3, std=(0.3,) * 3, class_names=names
        )
        train = Gone() if self.gone else images(26, 1)
        empty = Resident(images=torch.zeros(0, 3, 8, 8, dtype=torch.uint8), labels=torch.zeros(0, dtype=torch.int64))
        sets = {"hard": images(7, 3), "empty": empty}
        return Data(train=train, validation=images(13, 2), task=task, evaluation=sets)


@attrs.define(eq=False, kw_only=True)
class Second:
    \"\"\"A second classifier, to be evaluated beside the first.\"\"\"

    @hookimpl
    def build_modules(self, model, task):
        return {"head": nn.Linear(model.num_features, task.num_classes)}

    @hookimpl
    def extra_losses(self, output, targets, modules, task):
        wanted = targets.dense(task.num_classes)
        return {"second": nn.functional.cross_entropy(modules["head"](output.pooled), wanted)}

    @hookimpl
    def predictors(self, model, modules):
        return {"second": (model, modules["head"])}
"""
OVERRIDES = ("data.name=sets", "train.ema_decay=0.5", 'extra=[{name="second"}]')


@pytest.fixture
def trained(toy_run: Start, install: Callable[..., None]) -> Path:
    install({"sets": "sets_of_a_test:Sets", "second": "sets_of_a_test:Second"}, {"sets_of_a_test": SOURCE})
    return toy_run(*OVERRIDES)


def last_record(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])


class Images:
    """Counts the images that it is updated with."""

    def __init__(self) -> None:
        self.count = 0

    def update(self, logits: Tensor, labels: Tensor) -> None:
        self.count += len(logits)

    def compute(self) -> int:
        return self.count


def test_a_loaded_run_scores_what_the_run_recorded_and_builds_nothing_that_trains(
    trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_given: object, **_named: object) -> None:
        raise AssertionError("this is for training")

    for name in ("build_optimizer", "build_train_loader", "Schedule", "TrainingState"):
        monkeypatch.setattr(f"mixcore.run.session.{name}", refused)
    monkeypatch.setattr(torch.optim.Optimizer, "__init__", refused)
    before = torch.get_rng_state()
    run = mixcore.load_run(trained, checkpoint="last", overrides=["data.gone=true"])
    found = run.evaluate()
    assert torch.equal(before, torch.get_rng_state())
    record = last_record(trained)
    assert list(found) == list(run.predictors) == ["model", "second", "ema"]
    assert {name: numbers["top1"] for name, numbers in found.items()} == {
        name: record[f"val/top1/{name}"] for name in found
    }
    assert {name: found["model"][name] for name in ("top1", "top5", "loss")} == {
        name: record[f"val/{name}"] for name in ("top1", "top5", "loss")
    }
    assert (run.epoch, run.checkpoint) == (4, trained / "checkpoints" / "last.pt")
    assert run.task.class_names == ("dark", "middling", "bright")
    assert not any(module.training for module in run.model.modules())


def test_sets_by_name_checkpoints_and_metrics_of_ones_own(trained: Path) -> None:
    run = mixcore.load_run(str(trained), checkpoint="previous", device="cpu")
    assert run.epoch == 3
    assert list(run.sets) == ["val", "hard", "empty"]
    (images, labels), *rest = run.loader("hard").epoch(0)
    assert not rest
    assert (len(images), labels.tolist()) == (7, [0, 1, 2, 0, 1, 2, 0])
    assert run.evaluate("hard")["ema"]["count"] == 7
    assert run.evaluate("val", metrics={"images": Images()}) == {key: {"images": 13} for key in run.predictors}
    own = mixcore.load_run(trained, checkpoint=str(trained / "checkpoints" / "best.pt"))
    assert own.evaluate()["model"]["top1"] == max(
        json.loads(line)["val/top1"] for line in (trained / "metrics.jsonl").read_text().splitlines()
    )
    with pytest.raises(ConfigError, match=r"no evaluation set 'easy'; this run's data has: val, hard, empty"):
        run.evaluate("easy")
    with pytest.raises(DataError, match="is empty") as empty:
        run.evaluate("empty")
    assert "'empty'" in "".join(empty.value.__notes__)
    assert run.device == torch.device("cpu")


def test_what_cannot_be_opened_is_told_in_words(trained: Path, tmp_path: Path, install: Callable[..., None]) -> None:
    with pytest.raises(RunFolderError, match=r"nowhere is no run folder: it has no config\.toml.*mixcore run wrote"):
        mixcore.load_run(tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match=r"there is no checkpoint newest; run has: best, last, previous"):
        mixcore.load_run(trained, checkpoint="newest")
    with pytest.raises(ConfigError, match=r"run\.device.*tpu"):
        mixcore.load_run(trained, device="tpu")
    with pytest.raises(CheckpointError, match="do not fit this network"):
        mixcore.load_run(trained, overrides=["extra=[]"])
    path = trained / "checkpoints" / "best.pt"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"best\.pt.*has others: last\.pt, previous\.pt"):
        mixcore.load_run(trained)
    for one in (trained / "checkpoints").iterdir():
        one.unlink()
    with pytest.raises(CheckpointError, match=r"there is no checkpoint .*best\.pt; run has: none yet"):
        mixcore.load_run(trained)


def test_a_plugin_that_is_gone_is_named(toy_run: Start, toy_config: Path) -> None:
    folder = toy_run("schedule.epochs=1")
    settings = folder / "config.toml"
    settings.write_text(settings.read_text().replace('"toy_mix"', '"lost_mix"'))
    with pytest.raises((ConfigError, PluginError), match="lost_mix"):
        mixcore.load_run(folder)
