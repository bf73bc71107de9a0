"""A run as a whole, in this process: what it leaves, how it stops, and that it goes on as if it had not."""

from __future__ import annotations

import json
import resource
from collections.abc import Callable
from pathlib import Path

import pytest
import tomli
import torch

from mixcore.errors import (
    CheckpointError,
    ConfigError,
    InterruptedRunError,
    NonFiniteLossError,
    PreemptedError,
    RunFolderError,
    StorageError,
)

Start = Callable[..., Path]


def weights(folder: Path, name: str = "last") -> dict[str, torch.Tensor]:
    state = torch.load(folder / "checkpoints" / f"{name}.pt", weights_only=True)
    tensors = dict(state["step"])
    tensors.update({f"ema.{key}": value for key, value in (state["ema"] or {}).items()})
    return tensors


def assert_same_run(one: Path, other: Path) -> None:
    assert (one / "metrics.jsonl").read_bytes() == (other / "metrics.jsonl").read_bytes()
    for name in ("last", "best"):
        ours, theirs = weights(one, name), weights(other, name)
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[key], theirs[key]) for key in ours), name


def test_a_run_leaves_what_the_design_lists(toy_run: Start) -> None:
    folder = toy_run("train.ema_decay=0.5")
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [record["epoch"] for record in records] == [1, 2, 3, 4]
    for tag in (
        "train/loss",
        "train/lr",
        "val/top1",
        "val/top5",
        "val/top1/model",
        "val/top1/ema",
        "mix/lam",
        "mix/sources",
    ):
        assert all(isinstance(record[tag], float) for record in records), tag
    assert not any(tag.startswith("perf/") for tag in records[0])
    assert records[-1]["train/loss"] < records[0]["train/loss"]
    assert tomli.loads((folder / "config.toml").read_text())["mix"][0]["name"] == "toy_mix"
    environment = json.loads((folder / "environment.json").read_text())
    assert environment["torch"] == torch.__version__
    assert environment["plugins"]["toy_mix"] == "mixcore-toy 1.0"
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["value"] == records[-1]["val/top1"]
    assert summary["best"]["value"] == max(record["val/top1"] for record in records)
    assert summary["epochs"] == 4
    assert summary["parameters"] == 267
    assert list(folder.glob("events.out.tfevents.*"))
    assert sorted(path.name for path in (folder / "checkpoints").iterdir()) == ["best.pt", "last.pt", "previous.pt"]


def test_best_is_of_the_predictor_that_the_configuration_names(toy_run: Start) -> None:
    folder = toy_run("train.ema_decay=0.5", "eval.predictor=ema")
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [r["val/top1"] for r in records] == [r["val/top1/ema"] for r in records]
    with pytest.raises(ConfigError, match=r"eval\.predictor is 'teacher'; this run has model"):
        toy_run("eval.predictor=teacher", folder="other")


def test_weights_of_every_so_many_epochs_are_kept(toy_run: Start) -> None:
    plain, folder = toy_run(folder="plain"), toy_run("run.keep_every=2", folder="kept")
    assert_same_run(plain, folder)
    names = {path.stem for path in (folder / "checkpoints").glob("*.pt")}
    assert names == {"last", "previous", "best", "epoch-2", "epoch-4"}
    kept, last = weights(folder, "epoch-4"), weights(folder)
    assert all(torch.equal(kept[key], last[key]) for key in last)
    assert any(not torch.equal(value, last[key]) for key, value in weights(folder, "epoch-2").items())
    state = torch.load(folder / "checkpoints" / "epoch-2.pt", weights_only=True)
    assert state["epoch"] == 2
    assert "optimizer" not in state


def test_the_seed_decides_all_numbers(toy_run: Start) -> None:
    first, second = toy_run(folder="first"), toy_run(folder="second")
    assert_same_run(first, second)
    third = toy_run("seed=4", folder="third")
    assert (third / "metrics.jsonl").read_bytes() != (first / "metrics.jsonl").read_bytes()


@pytest.mark.parametrize("at", [0, 4, 5, 11])
@pytest.mark.parametrize(
    "settings",
    [(), ("train.accumulate=2", "train.ema_decay=0.9", 'optimizer.name="adamw"'), ("train.accumulate=5",)],
    ids=["plain", "two-at-a-time", "five-at-a-time"],
)
def test_a_preempted_run_ends_like_one_that_was_not(toy_run: Start, at: int, settings: tuple[str, ...]) -> None:
    whole = toy_run(*settings, folder="whole")
    stopping = (*settings, f"mix.signal_at={at}")
    with pytest.raises(PreemptedError, match=r"SIGTERM: run/checkpoints/last\.pt holds epoch"):
        toy_run(*stopping)
    assert torch.load("run/checkpoints/last.pt", weights_only=True)["epoch"] < 4
    assert_same_run(toy_run(*stopping), whole)


def test_an_interrupt_writes_a_checkpoint_and_a_second_one_does_not_wait(toy_run: Start) -> None:
    with pytest.raises(InterruptedRunError, match="holds epoch 2, iteration 5"):
        toy_run("mix.signal_at=4", "mix.signals=SIGINT")
    assert torch.load("run/checkpoints/last.pt", weights_only=True)["iteration"] == 5
    with pytest.raises(InterruptedRunError, match="at once"):
        toy_run("mix.signal_at=4", "mix.signals=SIGINT SIGINT", folder="twice")
    assert torch.load("twice/checkpoints/last.pt", weights_only=True)["iteration"] == 3


def test_a_repeated_sigterm_changes_nothing(toy_run: Start) -> None:
    with pytest.raises(PreemptedError, match="iteration 5"):
        toy_run("mix.signal_at=4", "mix.signals=SIGTERM SIGTERM")


def test_a_loss_that_is_not_finite_stops_the_run_and_leaves_the_checkpoints(toy_run: Start) -> None:
    with pytest.raises(NonFiniteLossError) as caught:
        toy_run("mix.nan_at=7")
    for said in ("loss became nan", "epoch 3, iteration 7", "mixer toy_mix", "mean lam 0.", "precision fp32"):
        assert said in str(caught.value)
    assert torch.load("run/checkpoints/last.pt", weights_only=True)["iteration"] == 6


def test_weights_that_are_not_finite_reach_no_checkpoint(toy_run: Start) -> None:
    with pytest.raises(NonFiniteLossError):
        toy_run("optimizer.lr=1e30", "schedule.name=constant")
    assert not Path("run/checkpoints/last.pt").exists()


def test_a_folder_of_another_configuration_is_refused(toy_run: Start) -> None:
    toy_run()
    before = Path("run/metrics.jsonl").read_bytes()
    with pytest.raises(RunFolderError) as caught:
        toy_run("optimizer.lr=0.1", "mix.pause=0.001")
    assert "optimizer.lr is 0.05 there and 0.1 now" in str(caught.value)
    assert "mix.pause is 0.0 there and 0.001 now" in str(caught.value)
    assert "--set run.dir=" in str(caught.value)
    assert Path("run/metrics.jsonl").read_bytes() == before


def test_a_folder_that_holds_no_results_yet_is_anybodys(toy_run: Start) -> None:
    with pytest.raises(NonFiniteLossError):
        toy_run("mix.nan_at=0")
    toy_run()


def test_a_run_folder_that_cannot_be_written_is_refused_before_training(toy_run: Start) -> None:
    Path("occupied").write_text("a file")
    with pytest.raises(RunFolderError, match=r"occupied/run cannot be written: .*--set run\.dir=PATH"):
        toy_run(folder="occupied/run")


def test_a_truncated_checkpoint_is_refused_and_the_previous_one_offered(toy_run: Start) -> None:
    whole = toy_run(folder="whole")
    with pytest.raises(PreemptedError):
        toy_run("mix.signal_at=7")
    last = Path("run/checkpoints/last.pt")
    last.write_bytes(last.read_bytes()[:1000])
    with pytest.raises(
        CheckpointError, match=r"last\.pt is no readable.*previous\.pt is there: add --resume-from prev"
    ):
        toy_run("mix.signal_at=7")
    # going on from the previous one passes iteration 7 again, and the signal with it
    with pytest.raises(PreemptedError):
        toy_run("mix.signal_at=7", resume_from="previous")
    assert_same_run(toy_run("mix.signal_at=7"), whole)


def test_asking_for_a_checkpoint_that_is_not_there(toy_run: Start) -> None:
    with pytest.raises(CheckpointError, match=r"previous\.pt does not exist; found none.*Leave out --resume-from"):
        toy_run(resume_from="previous")


def test_a_full_disk_leaves_the_old_checkpoint(toy_run: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(PreemptedError):
        toy_run("mix.signal_at=4")
    before = Path("run/checkpoints/last.pt").read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) - 1000, hard))
    try:
        with pytest.raises(StorageError, match=r"could not be written: File too large; .* untouched") as caught:
            toy_run("mix.signal_at=4")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert caught.value.exit_code == 1
    assert Path("run/checkpoints/last.pt").read_bytes() == before
    assert not list(Path("run/checkpoints").glob("*.tmp"))
    assert_same_run(toy_run("mix.signal_at=4"), toy_run(folder="whole"))


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_low_precision_resumes_too(toy_run: Start, precision: str) -> None:
    setting = f"train.precision={precision}"
    whole = toy_run(setting, "train.clip_grad=0.5", folder="whole")
    with pytest.raises(PreemptedError):
        toy_run(setting, "train.clip_grad=0.5", "mix.signal_at=4")
    assert_same_run(toy_run(setting, "train.clip_grad=0.5", "mix.signal_at=4"), whole)
    state = torch.load(whole / "checkpoints" / "last.pt", weights_only=True)
    assert bool(state["scaler"]) == (precision == "fp16")


def test_an_accumulating_run_steps_once_more_at_its_end(toy_run: Start) -> None:
    folder = toy_run("train.accumulate=5")
    state = torch.load(folder / "checkpoints" / "last.pt", weights_only=True)
    assert state["iteration"] == 12
    assert state["updates"] == 3  # after iterations 5, 10 and 12
    assert state["step"]["parts.toy_mix.counter.steps"] == 3
