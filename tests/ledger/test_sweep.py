"""Sweeps of toy runs: each run an ordinary folder, nothing done twice, failures told, and one summary."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mixcore.cli.main import main

SWEEP = """
base = "toy.toml"
dir = "runs/toy"
seeds = [0, 1]
launcher = {{ name = "toy_fork" }}
[grid]
"optimizer.lr" = [0.05, 0.1]
[set]
"schedule.epochs" = 2
{more}
"""
NAMES = [f"optimizer.lr={lr}-seed={seed}" for lr in (0.05, 0.1) for seed in (0, 1)]

Write = Callable[..., Path]


@pytest.fixture
def sweep(toy_config: Path) -> Write:
    """`sweep("more lines of [set]")` writes a sweep of the toy run."""

    def write(more: str = "", text: str = SWEEP) -> Path:
        path = Path("sweep.toml")
        path.write_text(text.format(more=more))
        return path

    return write


def summary() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(Path("runs/toy/summary.json").read_text())
    return found


def statuses() -> list[str]:
    return [row["status"] for row in summary()["runs"]]


def test_every_combination_is_an_ordinary_run_folder(sweep: Write, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["sweep", str(sweep())]) == 0
    printed = capfd.readouterr()
    found = summary()
    assert [row["name"] for row in found["runs"]] == NAMES
    assert statuses() == ["done"] * 4
    for row in found["runs"]:
        own = json.loads(Path("runs/toy", row["name"], "summary.json").read_text())
        assert (own["value"], own["seed"]) == (row["value"], row["seed"])
    first, second = (row["value"] for row in found["runs"][:2])
    assert found["settings"][0] == {
        "settings": {"optimizer.lr": 0.05},
        "mean": pytest.approx((first + second) / 2),
        "deviation": pytest.approx(abs(first - second) / 2),
        "n": 2,
    }
    table = Path("runs/toy/summary.md").read_text()
    assert (
        f"| 0.05 | {first:.2f} | {second:.2f} | {(first + second) / 2:.2f} | {abs(first - second) / 2:.2f} | 2 |"
        in table
    )
    assert "4 of 4 runs are done (runs/toy/summary.md)" in printed.out
    assert printed.err == ""  # no terminal, no live table


def test_a_run_of_a_sweep_goes_on_alone_and_gives_the_numbers_of_a_run_without_a_sweep(
    sweep: Write, toy_run: Callable[..., Path], capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["sweep", str(sweep('"mix.signal_at" = 4'))]) == 75
    assert statuses() == ["preempted"] * 4
    own = Path("runs/toy", NAMES[2])
    assert main(["run", str(own / "config.toml")]) == 0
    alone = toy_run("seed=0", "optimizer.lr=0.1", "schedule.epochs=2", folder="alone")
    assert (own / "metrics.jsonl").read_text() == (alone / "metrics.jsonl").read_text()
    capfd.readouterr()
    assert main(["sweep", str(sweep('"mix.signal_at" = 4')), "--json"]) == 0  # each got its signal already
    printed = json.loads(capfd.readouterr().out)
    assert printed == summary()
    assert statuses() == ["done"] * 4


def test_one_failed_run_stops_no_other(sweep: Write, capfd: pytest.CaptureFixture[str]) -> None:
    text = SWEEP.replace('"optimizer.lr" = [0.05, 0.1]', '"mix.nan_at" = [-1, 4]')
    assert main(["sweep", str(sweep(text=text))]) == 1
    assert statuses() == ["done", "done", "failed", "failed"]
    told = capfd.readouterr()
    assert "failed: mix.nan_at=4-seed=1, exit code 1; see runs/toy/mix.nan_at=4-seed=1/output.log" in told.err
    assert "the loss became nan" in Path("runs/toy/mix.nan_at=4-seed=1/output.log").read_text()
    assert "| 4 | failed | failed |  |  | 0 |" in Path("runs/toy/summary.md").read_text()
    assert summary()["settings"][1]["n"] == 0
    before = Path("runs/toy/mix.nan_at=-1-seed=0/output.log").read_text()
    assert main(["sweep", str(sweep(text=text))]) == 1  # what is done stays, what failed is tried again
    assert Path("runs/toy/mix.nan_at=-1-seed=0/output.log").read_text() == before
    assert Path("runs/toy/mix.nan_at=4-seed=1/output.log").read_text().count("the loss became nan") == 2


def test_preempted_comes_before_failed(sweep: Write) -> None:
    text = SWEEP.replace('"optimizer.lr" = [0.05, 0.1]', "mix = [{{ nan_at = 4 }}, {{ signal_at = 4 }}]")
    assert main(["sweep", str(sweep(text=text))]) == 75
    assert statuses() == ["failed", "failed", "preempted", "preempted"]


def _killed_once(after: float) -> None:
    """Carry on with the sweep in a fork, killed after so many seconds; None: to its end."""
    process = multiprocessing.get_context("fork").Process(target=lambda: os._exit(main(["sweep", "sweep.toml"])))
    process.start()
    process.join(after)
    process.kill()
    process.join()


@pytest.mark.parametrize("seeds", [2, pytest.param(15, marks=pytest.mark.slow)])
def test_a_sweep_killed_ten_times_does_nothing_twice(sweep: Write, seeds: int) -> None:
    names = [f"optimizer.lr={lr}-seed={seed}" for lr in (0.05, 0.1) for seed in range(seeds)]
    began = time.monotonic()
    text = SWEEP.replace("[0, 1]", str(list(range(seeds))))
    assert main(["sweep", str(sweep('"mix.pause" = 0.03', text=text))]) == 0
    whole, lasted = summary(), time.monotonic() - began
    assert [row["name"] for row in whole["runs"]] == names
    numbers = {name: Path("runs/toy", name, "metrics.jsonl").read_bytes() for name in names}
    shutil.rmtree("runs")
    draw, done = random.Random(5), 0
    for _ in range(10):
        _killed_once(draw.uniform(0.02, 0.15) * lasted)
        finished = sum(Path("runs/toy", name, "summary.json").exists() for name in names)
        assert finished >= done
        done = finished
    assert main(["sweep", "sweep.toml"]) == 0
    assert summary() == whole
    for name in names:
        assert Path("runs/toy", name, "metrics.jsonl").read_bytes() == numbers[name]
        # each run says at its end that it is done; a second start of a finished run would say so too
        log = Path("runs/toy", name, "output.log").read_text()
        assert log.count("done") == 1, log


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 75), (signal.SIGINT, 130)])
def test_a_stopped_sweep_leaves_checkpoints(sweep: Write, number: int, code: int) -> None:
    sweep('"mix.pause" = 0.2')
    process = multiprocessing.get_context("fork").Process(target=lambda: os._exit(main(["sweep", "sweep.toml"])))
    process.start()
    first = Path("runs/toy", NAMES[0])
    while not (first / "environment.json").exists():
        time.sleep(0.01)
    time.sleep(0.3)
    assert process.pid is not None
    os.kill(process.pid, number)
    process.join(60)
    assert process.exitcode == code
    assert statuses() == ["preempted", "waiting", "waiting", "waiting"]
    assert (first / "checkpoints" / "last.pt").exists()
    assert "stopped by SIGTERM" in (first / "output.log").read_text()


def test_the_folder_of_another_sweep_is_refused_with_what_differs(
    sweep: Write, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["sweep", str(sweep())]) == 0
    before = Path("runs/toy/summary.json").read_bytes()
    assert main(["sweep", str(sweep('"optimizer.momentum" = 0.5'))]) == 2
    message = capsys.readouterr().err
    assert "runs/toy holds another sweep:\n  optimizer.momentum is 0.9 there and 0.5 now\n" in message
    assert 'Give this sweep a folder of its own, by dir = "..."' in message
    assert main(["sweep", str(sweep(text=SWEEP.replace("[0, 1]", "[1]")))]) == 2
    assert f"  {NAMES[0]}, {NAMES[2]} there and not in this sweep" in capsys.readouterr().err
    assert Path("runs/toy/summary.json").read_bytes() == before
    assert main(["sweep", str(sweep(text=SWEEP.replace("[0, 1]", "[0, 1, 2]")))]) == 0  # it grew
    assert [group["n"] for group in summary()["settings"]] == [3, 3]


def test_two_sweeps_in_one_folder(sweep: Write, capsys: pytest.CaptureFixture[str]) -> None:
    process = multiprocessing.get_context("fork").Process(target=lambda: os._exit(main(["sweep", "sweep.toml"])))
    sweep('"mix.pause" = 0.2')
    process.start()
    while not Path("runs/toy", NAMES[0], "environment.json").exists():
        time.sleep(0.01)
    assert main(["sweep", "sweep.toml"]) == 2
    assert "another mixcore sweep goes on in runs/toy" in capsys.readouterr().err
    process.terminate()
    process.join()


def test_a_dry_run_lists_and_writes_nothing(sweep: Write, capsys: pytest.CaptureFixture[str]) -> None:
    path = sweep()
    before = sorted(Path().iterdir())
    assert main(["sweep", str(path), "--dry-run"]) == 0
    assert sorted(Path().iterdir()) == before
    printed = capsys.readouterr().out
    assert [line.split()[0] for line in printed.splitlines()[1:5]] == NAMES
    assert "4 runs in runs/toy, by toy_fork (mixcore-toy 1.0); everything fits" in printed
