"""Checkpoint files: at every instant one of them is good, and a bad one is told from one of another run."""

from __future__ import annotations

import contextlib
import hashlib
import io
import logging
import math
import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

from mixcore.errors import CheckpointError, InterruptedRunError
from mixcore.run.checkpoint import Checkpoints, read_checkpoint

CONFIG = "seed = 0\n[optimizer]\nlr = 0.1\n"


def checkpoints(folder: Path, **changes: Any) -> Checkpoints:
    settings = {"digest": "d", "config": CONFIG, "versions": {"cutmix": "mixcore-plugin-cutmix 0.1.0"}, **changes}
    return Checkpoints(folder=folder, **settings)


def state(epoch: int) -> dict[str, Any]:
    return {
        "epoch": epoch,
        "step": {"w": torch.full((3,), float(epoch))},
        "ema": None,
        "iteration": 3 * epoch,
        "iterations_per_epoch": 3,
        "updates": 3 * epoch,
        "seconds": {"train": 1.0},
        "best": {"epoch": 1, "value": 5.0},
        "records": ["{}"] * epoch,
        "totals": [{"train/loss": [1.0, 3]}],
        "data": {"training": {"samples": 26, "hash": "ab"}},
        "optimizer": {},
        "scaler": {},
    }


def test_the_newest_becomes_the_previous_one(tmp_path: Path) -> None:
    files = checkpoints(tmp_path)
    assert files.find() is None
    for epoch in (1, 2, 3):
        files.write(state(epoch))
    assert files.find() == files.last
    assert files.read(files.last)["epoch"] == 3
    assert files.read(files.previous)["epoch"] == 2
    assert files.find("previous") == files.previous
    assert sorted(os.listdir(tmp_path)) == ["last.pt", "previous.pt"]


def test_best_is_for_evaluation_not_for_resuming(tmp_path: Path) -> None:
    files = checkpoints(tmp_path)
    files.write_weights(files.best, state(1))
    best = read_checkpoint(files.best)
    assert "optimizer" not in best
    assert torch.equal(best["step"]["w"], torch.ones(3))
    assert files.find() is None


def test_killed_at_any_call_to_the_disk_a_good_checkpoint_remains(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    calls = ("replace", "fsync", "open")
    left = [0]

    def counted(name: str) -> Any:
        real = getattr(os, name)

        def call(*arguments: Any, **named: Any) -> Any:
            left[0] -= 1
            if left[0] < 0:
                raise Killed
            return real(*arguments, **named)

        return call

    survived = set()
    for limit in range(12):
        folder = tmp_path / str(limit)
        folder.mkdir()
        files = checkpoints(folder)
        files.write(state(1))
        files.write(state(2))
        left[0] = limit
        with monkeypatch.context() as patched:
            for name in calls:
                patched.setattr(os, name, counted(name))
            with contextlib.suppress(Killed):
                files.write(state(3))
        found = files.find()
        assert found is not None
        survived.add((files.read(found)["epoch"], found.name))
    assert survived == {(2, "last.pt"), (2, "previous.pt"), (3, "last.pt")}


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda b: b[: len(b) // 2], "is truncated"),
        (lambda b: b[:-1], "is truncated|has no checksum"),
        (lambda b: b"", "found something else"),
        (lambda b: b"not a checkpoint at all", "found something else"),
        (lambda b: b[:700] + bytes([b[700] ^ 1]) + b[701:], "is damaged, its checksum"),
    ],
)
def test_an_unreadable_file_offers_the_previous_one(tmp_path: Path, damage: Any, said: str) -> None:
    files = checkpoints(tmp_path)
    files.write(state(1))
    files.last.write_bytes(damage(files.last.read_bytes()))
    with pytest.raises(CheckpointError, match=rf"last\.pt .*({said}).*Remove .* to start anew"):
        files.read(files.last)
    files.previous.write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"add --resume-from previous"):
        files.read(files.last)


def test_best_in_place_of_last_is_refused_and_the_previous_one_offered(tmp_path: Path) -> None:
    files = checkpoints(tmp_path)
    files.write(state(1))
    files.write(state(2))
    files.write_weights(files.best, state(2))
    files.last.write_bytes(files.best.read_bytes())
    with pytest.raises(CheckpointError, match=r"holds weights to evaluate.*nothing to go on from.*--resume-from prev"):
        files.read(files.last)


@pytest.mark.parametrize("key", [key for key in state(1) if key != "ema"])
def test_a_key_that_is_missing_or_of_another_kind_is_named(tmp_path: Path, key: str) -> None:
    files = checkpoints(tmp_path)
    for content in ({k: v for k, v in state(1).items() if k != key}, {**state(1), key: -1}):
        files.write(content)
        with pytest.raises(CheckpointError, match=rf"\b{key} is missing or not what it should be"):
            files.read(files.last)


def test_a_number_of_lines_that_is_not_that_of_epochs_is_refused(tmp_path: Path) -> None:
    files = checkpoints(tmp_path)
    files.write({**state(2), "records": ["{}"]})
    with pytest.raises(CheckpointError, match="records is missing or not"):
        files.read(files.last)


def test_code_in_a_file_is_not_run_and_called_what_it_is(tmp_path: Path) -> None:
    ran = tmp_path / "ran"

    class Evil:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(ran),)

    path = tmp_path / "last.pt"
    torch.save({"format": 2, "evil": Evil()}, path)
    with path.open("rb") as file:
        unsealed = file.read()
    checkpoints(tmp_path).write({**state(1), "optimizer": {"evil": Evil()}})
    sealed = path.read_bytes()
    for content in (sealed, unsealed):
        path.write_bytes(content)
        with pytest.raises(CheckpointError) as caught:
            read_checkpoint(path)
        assert "refused: it holds Python objects whose loading would run code (posix.mkdir" in str(caught.value)
        assert "weights_only" not in str(caught.value)
    path.write_bytes(pickle.dumps(Evil()))
    with pytest.raises(CheckpointError, match="is a Python pickle, whose code would run"):
        read_checkpoint(path)
    assert not ran.exists()


def test_files_of_others_and_older_ones_are_told_apart(tmp_path: Path) -> None:
    path = tmp_path / "last.pt"
    torch.save({"state_dict": {}}, path)
    with pytest.raises(CheckpointError, match=r"has no checksum.*found one of another program"):
        read_checkpoint(path)
    torch.save({**state(1), "format": 1}, path)
    with pytest.raises(CheckpointError, match=r"has no checksum.*found a checkpoint of format 1"):
        read_checkpoint(path)
    checkpoints(tmp_path).write({**state(1), "format": 3})
    with pytest.raises(CheckpointError, match="format 3, expected 2"):
        read_checkpoint(path)


@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo, lambda path: os.symlink("/dev/zero", path)])
def test_what_is_no_file_is_refused_without_waiting(tmp_path: Path, make: Any) -> None:
    make(tmp_path / "last.pt")
    with pytest.raises(CheckpointError, match=r"last\.pt cannot be read"):
        read_checkpoint(tmp_path / "last.pt")


def test_an_archive_that_would_grow_is_not_opened(tmp_path: Path) -> None:
    files = checkpoints(tmp_path)
    files.write(state(1))
    content = io.BytesIO(files.last.read_bytes())
    grown = io.BytesIO()
    with zipfile.ZipFile(content) as old, zipfile.ZipFile(grown, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
    sealed = grown.getvalue() + b"\nmixcore sha256:" + hashlib.sha256(grown.getvalue()).digest()
    files.last.write_bytes(sealed)
    with pytest.raises(CheckpointError, match="it is compressed"):
        read_checkpoint(files.last)


def test_every_kind_of_tensor_comes_back(tmp_path: Path) -> None:
    tensors = {
        "bfloat16": torch.randn(3, 2).bfloat16(),
        "bool": torch.tensor([True, False]),
        "scalar": torch.tensor(3.5),
        "empty": torch.empty(0, 4),
        "transposed": torch.arange(6.0).view(2, 3).t(),
        "strided": torch.arange(10)[::3],
        "nan": torch.tensor([math.nan, math.inf]),
    }
    files = checkpoints(tmp_path)
    files.write({**state(1), "step": tensors})
    read = files.read(files.last)["step"]
    for name, tensor in tensors.items():
        assert read[name].dtype == tensor.dtype, name
        assert torch.equal(read[name].nan_to_num(), tensor.nan_to_num()), name
    assert torch.load(files.last, weights_only=True).keys() == files.read(files.last).keys(), "torch reads it too"


def test_another_configuration_is_refused_key_by_key(tmp_path: Path) -> None:
    checkpoints(tmp_path).write(state(1))
    other = checkpoints(tmp_path, digest="e", config=CONFIG.replace("0.1", "0.2"))
    with pytest.raises(CheckpointError, match=r"(?s)optimizer\.lr is 0\.1 there and 0\.2 now.*--set run\.dir=PATH"):
        other.read(other.last)


def test_another_version_of_a_plugin_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    checkpoints(tmp_path).write(state(1))
    newer = checkpoints(tmp_path, versions={"cutmix": "mixcore-plugin-cutmix 0.2.0"})
    with caplog.at_level(logging.WARNING, logger="mixcore"):
        newer.read(newer.last)
    assert (
        "written with cutmix from mixcore-plugin-cutmix 0.1.0; going on with mixcore-plugin-cutmix 0.2.0" in caplog.text
    )


def test_giving_up_a_bad_file_never_leaves_two_bad_ones(tmp_path: Path) -> None:
    files = checkpoints(tmp_path)
    files.write(state(1))
    files.write(state(2))
    files.last.write_bytes(b"bad")
    files.promote_previous()
    files.write(state(2))
    assert [files.read(path)["epoch"] for path in (files.previous, files.last)] == [1, 2]


@pytest.mark.parametrize("sealed", [True, False])
def test_a_signal_while_a_file_is_read_is_not_taken_for_damage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sealed: bool
) -> None:
    files = checkpoints(tmp_path)
    files.write(state(1))
    if not sealed:
        torch.save(state(1), files.last)

    def interrupted(*_: Any, **__: Any) -> None:
        raise InterruptedRunError("stopped")

    monkeypatch.setattr(torch, "load", interrupted)
    with pytest.raises(InterruptedRunError):
        files.read(files.last)
