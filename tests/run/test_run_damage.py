"""What becomes of a run whose files, data or values are damaged: named, with checkpoints kept, and nothing invented."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from mixcore.cli.main import main
from mixcore.errors import CheckpointError, PreemptedError, RunFolderError, StorageError
from mixcore.run import run as run_module
from mixcore.run.checkpoint import read_checkpoint

Start = Callable[..., Path]
RUN = Path("run")


@pytest.fixture
def after_epoch(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """`after_epoch(2, action)`: call `action` once, when epoch 2 (from 1) of the next run is being evaluated."""
    real, count = run_module.evaluate, [0]

    def install(epoch: int, action: Callable[[], object]) -> None:
        def evaluate(*arguments: Any, **named: Any) -> Any:
            count[0] += 1
            if count[0] == epoch:
                action()
            return real(*arguments, **named)

        monkeypatch.setattr(run_module, "evaluate", evaluate)

    return install


@pytest.fixture
def headline_values(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """`headline_values(nan, 3.0)`: what the epochs' val/top1 are, instead of what they would be."""

    def install(*values: float) -> None:
        real, given = run_module.evaluate, iter(values)

        def evaluate(*arguments: Any, **named: Any) -> Any:
            value = next(given)
            return {name: {**metrics, "top1": value} for name, metrics in real(*arguments, **named).items()}

        monkeypatch.setattr(run_module, "evaluate", evaluate)

    return install


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes().splitlines(keepends=True)[0])


def same_numbers(one: Path, other: Path) -> None:
    assert (one / "metrics.jsonl").read_bytes() == (other / "metrics.jsonl").read_bytes()
    for name in ("last", "best"):
        ours, theirs = (read_checkpoint(run / "checkpoints" / f"{name}.pt")["step"] for run in (one, other))
        assert all(torch.equal(ours[key], theirs[key]) for key in ours), name


# --- metrics.jsonl ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("epoch", [3, 4])
@pytest.mark.parametrize("damage", [Path.unlink, cut, lambda path: path.write_bytes(b"")])
def test_metrics_changed_in_mid_run_end_it_and_are_put_back(
    toy_run: Start, after_epoch: Callable[..., None], caplog: pytest.LogCaptureFixture, epoch: int, damage: Any
) -> None:
    whole = toy_run(folder="whole")
    after_epoch(epoch, lambda: damage(RUN / "metrics.jsonl"))
    with pytest.raises(StorageError, match=r"metrics\.jsonl .*Somebody changed it.*puts the file back") as caught:
        toy_run()
    assert caught.value.exit_code == 1
    assert not (RUN / "summary.json").exists()
    assert read_checkpoint(RUN / "checkpoints" / "last.pt")["epoch"] == epoch - 1
    same_numbers(toy_run(), whole)
    assert "were put back from the checkpoint" in caplog.text


def test_metrics_changed_after_the_last_epoch_give_no_summary(toy_run: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = toy_run(folder="whole")
    with monkeypatch.context() as patched:
        patched.setattr("mixcore.train.loop.Loop.finish", lambda _loop: cut(RUN / "metrics.jsonl"))
        with pytest.raises(StorageError, match="holds 1 whole lines; this run has written 4 epochs"):
            toy_run()
    assert not (RUN / "summary.json").exists()
    same_numbers(toy_run(), whole)
    assert json.loads((RUN / "summary.json").read_text())["epochs"] == 4


# --- folders, disks, checkpoints --------------------------------------------------------------------------------------


def test_a_run_folder_removed_in_mid_run_is_named(toy_run: Start, after_epoch: Callable[..., None]) -> None:
    after_epoch(2, lambda: shutil.rmtree(RUN))
    with pytest.raises(StorageError, match=r"the folder run is gone\. It was removed or renamed while the run trained"):
        toy_run()
    assert not RUN.exists()


def test_checkpoints_removed_in_mid_run_are_named(toy_run: Start, after_epoch: Callable[..., None]) -> None:
    after_epoch(2, lambda: shutil.rmtree(RUN / "checkpoints"))
    with pytest.raises(StorageError, match="the folder run/checkpoints is gone"):
        toy_run()


@pytest.mark.parametrize("epoch", [1, 3])
def test_a_full_disk_at_the_events_of_tensorboard(
    toy_run: Start, after_epoch: Callable[..., None], monkeypatch: pytest.MonkeyPatch, epoch: int
) -> None:
    full = open("/dev/full", "wb")  # noqa: SIM115 - the log closes it
    logs: list[Any] = []
    real = run_module.TensorBoardLog

    def opened(*arguments: Any, **named: Any) -> Any:
        logs.append(real(*arguments, **named))
        return logs[0]

    def fill() -> None:
        logs[0]._file.close()
        logs[0]._file = full

    whole = toy_run(folder="whole")
    with monkeypatch.context() as patched:
        patched.setattr(run_module, "TensorBoardLog", opened)
        after_epoch(epoch, fill)
        with pytest.raises(StorageError, match=r"events\.out\.tfevents.* No space left .*Make room") as caught:
            toy_run()
    assert caught.value.exit_code == 1
    same_numbers(toy_run(), whole)


def test_lost_checkpoints_are_not_taken_for_a_new_run(toy_run: Start) -> None:
    toy_run()
    (RUN / "summary.json").unlink()
    before = (RUN / "metrics.jsonl").read_bytes()
    for name in ("last", "previous"):
        (RUN / "checkpoints" / f"{name}.pt").unlink()
    with pytest.raises(RunFolderError, match=r"metrics\.jsonl holds 4 epochs, but run/checkpoints has no last"):
        toy_run()
    assert (RUN / "metrics.jsonl").read_bytes() == before


@pytest.mark.parametrize(("accumulate", "epochs"), [(1, 1), (3, 1), (5, 1), (8, 2), (100, 3)])
def test_a_run_killed_before_its_first_checkpoint_starts_again(
    toy_run: Start, monkeypatch: pytest.MonkeyPatch, accumulate: int, epochs: int
) -> None:
    """Epochs are recorded before the optimizer step that the first checkpoint waits for."""
    settings = (f"train.accumulate={accumulate}",)
    whole = toy_run(*settings, folder="whole")

    class Killed(BaseException):
        pass

    def killed(*_: Any) -> None:
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr("mixcore.run.checkpoint.Checkpoints.write", killed)
        with pytest.raises(Killed):
            toy_run(*settings)
    assert len((RUN / "metrics.jsonl").read_bytes().splitlines()) == epochs
    same_numbers(toy_run(*settings), whole)


@pytest.mark.parametrize("content", [b"", b'{"metric": "top1", "val', b"[]"])
def test_a_damaged_summary_is_refused_and_written_anew(
    toy_config: Path, capsys: pytest.CaptureFixture[str], content: bytes
) -> None:
    assert main(["run", str(toy_config)]) == 0
    good = json.loads((RUN / "summary.json").read_text())
    (RUN / "summary.json").write_bytes(content)
    capsys.readouterr()
    assert main(["run", str(toy_config)]) == 2
    message = capsys.readouterr().err
    assert message.startswith("mixcore: run/summary.json is damaged")
    assert "Traceback" not in message
    (RUN / "summary.json").unlink()
    assert main(["run", str(toy_config)]) == 0
    again = json.loads((RUN / "summary.json").read_text())
    changing = {"seconds", "images_per_second", "peak_memory_bytes"}
    assert {key: value for key, value in again.items() if key not in changing} == {
        key: value for key, value in good.items() if key not in changing
    }


# --- values that are not finite ---------------------------------------------------------------------------------------


def test_a_first_value_that_is_nan_does_not_stay_the_best(toy_run: Start, headline_values: Callable[..., None]) -> None:
    headline_values(math.nan, 3.0, math.inf, 2.0)
    toy_run()
    assert read_checkpoint(RUN / "checkpoints" / "best.pt")["epoch"] == 2
    summary = json.loads((RUN / "summary.json").read_text())
    assert summary["best"] == {"epoch": 2, "value": 3.0}
    assert summary["median_last_10"] is None
    assert summary["value"] == 2.0


def test_without_a_finite_value_there_is_no_best(
    toy_config: Path, headline_values: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    headline_values(*[math.nan] * 4)
    assert main(["run", str(toy_config), "--set", "eval.protocol=best"]) == 0
    assert "done: top1 not finite (best), best never finite of 4 (run)" in capsys.readouterr().out
    assert not (RUN / "checkpoints" / "best.pt").exists()
    summary = json.loads((RUN / "summary.json").read_text(), parse_constant=pytest.fail)
    assert summary["best"] is None
    assert summary["value"] is None


# --- data that moved, and data that changed ---------------------------------------------------------------------------

STORED = """
import attrs, torch
from mixcore.api import PLACE, Data, Resident, Task, hookimpl

@attrs.define(eq=False, kw_only=True)
class Stored:
    role = "data"
    root: str = attrs.field(default="data", metadata=PLACE)

    @hookimpl
    def build_data(self):
        stored = torch.load(self.root + "/set.pt", weights_only=True)
        train, validation = (Resident(**stored[name]) for name in ("train", "validation"))
        task = Task(num_classes=3, in_channels=3, image_size=(8, 8), mean=(0.5,) * 3, std=(0.5,) * 3)
        return Data(train=train, validation=validation, task=task)
"""


@pytest.fixture
def stored(install: Callable[..., None], tmp_path: Path) -> dict[str, dict[str, torch.Tensor]]:
    """A data set in tmp_path/data/set.pt."""
    install({"stored": "stored_data:Stored"}, {"stored_data": STORED})
    rng = torch.Generator().manual_seed(0)
    sets = {
        name: {
            "images": torch.randint(0, 256, (count, 3, 8, 8), generator=rng, dtype=torch.uint8),
            "labels": torch.arange(count) % 3,
        }
        for name, count in (("train", 26), ("validation", 13))
    }
    (tmp_path / "data").mkdir()
    torch.save(sets, tmp_path / "data" / "set.pt")
    return sets


def test_a_run_goes_on_after_its_data_set_was_moved(toy_run: Start, stored: Any, tmp_path: Path) -> None:
    whole = toy_run("data.name=stored", folder="whole")
    with pytest.raises(PreemptedError):
        toy_run("data.name=stored", "mix.signal_at=4")
    (tmp_path / "data").rename(tmp_path / "moved")
    moved = ("data.name=stored", "mix.signal_at=4", "data.root=moved", "data.workers=1")
    same_numbers(toy_run(*moved), whole)
    (RUN / "summary.json").unlink()
    toy_run(*moved, "train.log_every=1", "eval.batch_size=5")


@pytest.mark.parametrize(
    ("which", "change", "said"),
    [
        (
            "train",
            lambda one: one["images"][3, 0, 0].add_(1),
            "the training set has changed .* 26 images as before",
        ),
        (
            "validation",
            lambda one: one["labels"].clamp_(0, 1),
            "the validation set has changed .* 13 images as before",
        ),
        (
            "train",
            lambda one: one.update(images=one["images"][:24], labels=one["labels"][:24]),
            "it had 26 images and has 24 now",
        ),
    ],
)
def test_a_data_set_that_changed_is_refused(
    toy_run: Start, stored: Any, tmp_path: Path, which: str, change: Any, said: str
) -> None:
    with pytest.raises(PreemptedError):
        toy_run("data.name=stored", "mix.signal_at=4")
    change(stored[which])
    torch.save(stored, tmp_path / "data" / "set.pt")
    with pytest.raises(CheckpointError, match=f"{said}.*Put the old set back, or start a new run") as caught:
        toy_run("data.name=stored", "mix.signal_at=4")
    assert caught.value.exit_code == 2


def test_the_summary_says_which_run_it_is(toy_run: Start) -> None:
    one, repeated, other = toy_run(folder="a"), toy_run("seed=4", folder="b"), toy_run("optimizer.lr=0.1", folder="c")
    first, second, third = (json.loads((run / "summary.json").read_text()) for run in (one, repeated, other))
    assert first["digest"] != second["digest"]
    assert first["experiment"] == second["experiment"] != third["experiment"]
    assert (first["seed"], second["seed"]) == (3, 4)
    assert first["data"] == second["data"]
    assert first["data"]["training"]["samples"] == 26
    assert first["versions"]["torch"] == torch.__version__
    assert first["versions"]["plugins"]["toy_mix"] == "mixcore-toy 1.0"
    assert first["device"]
    assert first["seconds"]["wall"] >= first["seconds"]["train"] + first["seconds"]["evaluate"]


# --- checkpoints that cannot be used, through the command line -------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda path: path.write_bytes(b""), "found something else"),
        (lambda path: path.write_bytes(path.read_bytes()[:-7]), "no"),
        (lambda path: shutil.copy("/etc/passwd", path), "found something else"),
        (lambda path: shutil.copy(path.with_name("best.pt"), path), "nothing to go on from"),
        (lambda path: torch.save(torch.nn.Linear(1, 1), path), "would run code"),
    ],
)
def test_a_checkpoint_that_cannot_be_used_is_refused_by_every_verb(
    toy_config: Path, capsys: pytest.CaptureFixture[str], make: Any, said: str
) -> None:
    assert main(["run", str(toy_config)]) == 0
    (RUN / "summary.json").unlink()
    make(RUN / "checkpoints" / "last.pt")
    capsys.readouterr()
    assert main(["run", str(toy_config)]) == 2
    message = capsys.readouterr().err
    assert message.startswith("mixcore: run/checkpoints/last.pt")
    assert said in message
    assert "--resume-from previous" in message
    assert "weights_only" not in message
    assert "Traceback" not in message
    if said != "nothing to go on from":
        assert main(["eval", "run", "--checkpoint", "last"]) == 2
        assert "run has others: best.pt, previous.pt" in capsys.readouterr().err
