"""`mixcore run` on values, to the end: trained, evaluated by what is to be small, sought out again, and refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import mixcore
from mixcore.cli.main import main

CONFIG = str(Path(__file__).resolve().parents[2] / "configs" / "rotated_digits.toml")


def run(folder: Path, *settings: str) -> int:
    given = ("schedule.epochs=3", "data.batch_size=400", f"run.dir={folder}", "run.device=cpu", *settings)
    return main(["run", CONFIG, *(word for setting in given for word in ("--set", setting))])


def test_the_angle_of_digits_is_learnt_and_the_least_error_is_the_best(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    assert run(folder, "eval.protocol=best", "optimizer.lr=0.02") == 0
    assert "mae" in capsys.readouterr().out
    summary: dict[str, Any] = json.loads((folder / "summary.json").read_text())
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    errors = [record["val/mae"] for record in records]
    assert summary["metric"] == "mae"
    assert summary["value"] == summary["best"]["value"] == min(errors)
    assert min(errors) < 28  # 30 is the mean error of always saying 0
    assert {"val/rmse", "val/mape", "val/pearson", "val/spearman"} <= records[-1].keys()
    assert records[-1]["val/pearson"] > 0.3
    assert main(["eval", str(folder)]) == 0
    printed = capsys.readouterr().out
    assert "pearson" in printed
    assert f"{min(errors):.4f}" in printed
    best = mixcore.load_run(folder, checkpoint="best", device="cpu")
    assert best.epoch == errors.index(min(errors)) + 1
    assert best.task.label_kind == "value"


def test_a_loss_of_classes_is_refused_and_told_which_take_values(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], every_plugin_named: None
) -> None:
    assert run(tmp_path / "run", "loss.name=soft_cross_entropy") == 2
    told = " ".join(capsys.readouterr().err.split())
    assert "soft_cross_entropy" in told
    assert "takes labels of kind class and soft, and this task has value labels" in told
    assert "l1" in told.partition("installed")[2]
