"""`mixcore run` as a person types it: what it prints, and the exit code it leaves with."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import tomli

from mixcore.cli.main import main

QUICKSTART = Path(__file__).parents[2] / "configs" / "quickstart.toml"


def test_a_run_prints_its_epochs_and_its_result(toy_config: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["run", str(toy_config)]) == 0
    lines = capfd.readouterr().out.splitlines()
    assert [line.split("  ")[0] for line in lines[:4]] == ["epoch 1/4", "epoch 2/4", "epoch 3/4", "epoch 4/4"]
    done = re.fullmatch(r"done: (top1 \d+\.\d\d % \(last\), best \d+\.\d\d % in epoch \d of 4) \(run\)", lines[4])
    assert done is not None, lines[4]
    before = Path("run/metrics.jsonl").read_bytes()
    assert main(["run", str(toy_config)]) == 0
    assert capfd.readouterr().out == f"run is done already: {done[1]}\n"
    assert Path("run/metrics.jsonl").read_bytes() == before


def test_a_dry_run_checks_and_prints_but_writes_nothing(toy_config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(Path().iterdir())
    assert main(["run", str(toy_config), "--dry-run", "--set", "optimizer.lr=0.2"]) == 0
    printed = capsys.readouterr().out
    resolved = tomli.loads(printed)
    assert resolved["optimizer"]["lr"] == 0.2
    assert resolved["loss"]["name"] == "soft_cross_entropy"
    roles = [line.split(":")[0] for line in printed.splitlines() if line.startswith("# ") and "(" in line]
    assert roles == ["# data", "# backbone", "# mix", "# labels", "# loss"]
    assert "# everything fits: 4 epochs of 3 iterations" in printed
    assert sorted(Path().iterdir()) == before


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("data.batch_size=27", "no whole batch of data.batch_size = 27"),
        ("mix.alpha=1.0", "alpha"),
        ("optimizer.name=sdg", "timm has no optimizer 'sdg'; did you mean sgd"),
        ("eval.predictor=teacher", "eval.predictor is 'teacher'; this run has model"),
    ],
)
@pytest.mark.parametrize("dry", [True, False])
def test_what_cannot_run_is_refused_before_training(
    toy_config: Path, capsys: pytest.CaptureFixture[str], override: str, said: str, dry: bool
) -> None:
    assert main(["run", str(toy_config), "--set", override, *(["--dry-run"] if dry else [])]) == 2
    message = capsys.readouterr().err
    assert said in message
    assert "Traceback" not in message
    assert not Path("run/metrics.jsonl").exists()


@pytest.mark.parametrize(
    ("settings", "code", "said"),
    [
        (("mix.signal_at=4",), 75, "stopped by SIGTERM"),
        (("mix.signal_at=4", "mix.signals=SIGINT"), 130, "stopped by SIGINT"),
        (("mix.nan_at=4",), 1, "the loss became nan"),
        (("run.dir=/dev/null/run",), 2, "cannot be written"),
    ],
)
def test_exit_codes(
    toy_config: Path, capsys: pytest.CaptureFixture[str], settings: tuple[str, ...], code: int, said: str
) -> None:
    overrides = [part for setting in settings for part in ("--set", setting)]
    assert main(["run", str(toy_config), *overrides]) == code
    message = capsys.readouterr().err
    assert message.startswith("mixcore: ")
    assert said in message
    assert "Traceback" not in message


def test_nproc_inside_a_launcher_is_refused(
    toy_config: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert main(["run", str(toy_config), "--nproc", "2"]) == 2
    assert "--nproc 2 inside a launcher that started 4 processes; remove it" in capsys.readouterr().err


def test_the_quickstart_configuration_fits(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", str(QUICKSTART), "--dry-run"]) == 0
    assert "# everything fits: 10 epochs of 22 iterations" in capsys.readouterr().out


@pytest.mark.slow
def test_the_quickstart_learns_digits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["run", str(QUICKSTART)]) == 0
    summary = json.loads(Path("runs/quickstart/summary.json").read_text())
    assert summary["value"] >= 98.0
