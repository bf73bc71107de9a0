"""docs/trained_runs.md: every block runs as it stands on a run that was just trained."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from mixcore.run.folder import RunFolder
from mixcore.run.resolve import load_config
from mixcore.run.run import run

PAGE = (Path(__file__).resolve().parents[1] / "docs" / "trained_runs.md").read_text()
OPENED, METRIC = re.findall(r"```python\n(.*?)```", PAGE, flags=re.S)
CONFIG = """
[data]
name = "digits"
batch_size = 64
size = 8
[backbone]
name = "resnet10t"
[optimizer]
lr = 0.05
[schedule]
epochs = 1
[train]
ema_decay = 0.5
[run]
device = "cpu"
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("trained_runs")
    (path / "digits.toml").write_text(CONFIG)
    run(load_config(path / "digits.toml"), RunFolder(path / "run"))
    return path / "run"


def names_after(block: str, folder: Path) -> dict[str, Any]:
    names: dict[str, Any] = {"__name__": "trained_runs", "folder": folder}
    exec(compile(block, "docs/trained_runs.md", "exec"), names)
    return names


def test_the_page_opens_a_run_and_finds_its_record(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = names_after(OPENED, folder)
    record = json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])
    assert {name: found["top1"] for name, found in names["scores"].items()} == {
        name: record[f"val/top1/{name}"] for name in ("model", "ema")
    }
    printed = capsys.readouterr().out
    assert "('0', '1', '2', '3', '4', '5', '6', '7', '8', '9') ['val', 'train'] ['model', 'ema']" in printed


def test_the_page_measures_by_a_metric_of_its_own(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = names_after(METRIC, folder)["run"]
    assert 0.1 < float(capsys.readouterr().out) < 1
    (table,) = re.findall(r"\| member \|.*?\n\n", PAGE, re.S)
    named = re.findall(r"`(\w+)", " ".join(line.split("|")[1] for line in table.strip().splitlines()[2:]))
    assert all(hasattr(run, name) for name in named)
