"""Checkpoint files: at every instant one of them is good, and a bad one is told from one of another run."""

from __future__ import annotations

import contextlib
import logging
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from mixcore.errors import CheckpointError
from mixcore.train.checkpoint import Checkpoints, read_checkpoint

CONFIG = "seed = 0\n[optimizer]\nlr = 0.1\n"


def checkpoints(folder: Path, **changes: Any) -> Checkpoints:
    settings = {"digest": "d", "config": CONFIG, "versions": {"cutmix": "mixcore-plugin-cutmix 0.1.0"}, **changes}
    return Checkpoints(folder=folder, **settings)


def state(epoch: int) -> dict[str, Any]:
    return {"epoch": epoch, "step": {"w": torch.full((3,), float(epoch))}, "optimizer": {}, "scaler": {}, "totals": []}


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
    files.write_best(state(1))
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


@pytest.mark.parametrize("damage", [lambda b: b[: len(b) // 2], lambda b: b"", lambda b: b"not a checkpoint at all"])
def test_an_unreadable_file_offers_the_previous_one(tmp_path: Path, damage: Any) -> None:
    files = checkpoints(tmp_path)
    files.write(state(1))
    files.last.write_bytes(damage(files.last.read_bytes()))
    with pytest.raises(CheckpointError, match=r"last\.pt is no readable checkpoint.*Remove .* to start anew"):
        files.read(files.last)
    files.previous.write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"add --resume-from previous"):
        files.read(files.last)


def test_code_in_a_file_is_not_run(tmp_path: Path) -> None:
    torch.save({"format": 1, "evil": Path("x")}, tmp_path / "last.pt")
    with pytest.raises(CheckpointError):
        read_checkpoint(tmp_path / "last.pt")


def test_a_file_of_another_format_is_refused(tmp_path: Path) -> None:
    torch.save({"state_dict": {}}, tmp_path / "last.pt")
    with pytest.raises(CheckpointError, match="format None, expected 1"):
        read_checkpoint(tmp_path / "last.pt")


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
