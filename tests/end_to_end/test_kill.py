"""The kill test: SIGKILL at random instants, the same command again, and the numbers of a run that was never killed."""

from __future__ import annotations

import importlib
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Protocol

import pytest
import torch


class Running(Protocol):
    """A process, seen alike whether it was forked or started as a command."""

    def kill(self) -> None: ...

    def wait(self, seconds: float | None) -> int | None:
        """Its exit code; None while it runs on after `seconds`."""
        ...


Starter = Callable[[str], Running]
"""Starts the run into the folder that it is given."""


class Forked:
    """A process of tests/toy_distribution/toy_processes.py."""

    def __init__(self, config: Path, *overrides: str, folder: str) -> None:
        [self.process] = importlib.import_module("toy_processes").start(config, overrides, folder)

    def kill(self) -> None:
        self.process.kill()

    def wait(self, seconds: float | None) -> int | None:
        self.process.join(seconds)
        code: int | None = self.process.exitcode
        return code


class Command:
    """The real command line."""

    def __init__(self, config: Path, *overrides: str, folder: str) -> None:
        settings = [part for override in (*overrides, f"run.dir={folder}") for part in ("--set", override)]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "mixcore", "run", str(config), *settings], stdout=subprocess.DEVNULL
        )

    def kill(self) -> None:
        self.process.kill()

    def wait(self, seconds: float | None) -> int | None:
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None


def measure(start: Starter) -> tuple[float, float]:
    """Run to the end without a kill: seconds to the first finished epoch, and of the whole run."""
    began, running, first = time.monotonic(), start("whole"), None
    while running.wait(0.01) is None:
        if first is None and Path("whole/metrics.jsonl").exists():
            first = time.monotonic() - began
    assert running.wait(None) == 0
    assert first is not None
    return first, time.monotonic() - began


def kill_and_restart(start: Starter, moments: list[Callable[[], object]]) -> int:
    """Start the run again and again, killing it when each of `moments` returns; how often it was still running."""
    kills = 0
    for moment in moments:
        running = start("killed")
        moment()
        running.kill()
        kills += running.wait(None) == -signal.SIGKILL
    assert start("killed").wait(None) == 0
    return kills


def assert_the_same_numbers() -> None:
    assert Path("killed/metrics.jsonl").read_bytes() == Path("whole/metrics.jsonl").read_bytes()
    for name in ("last.pt", "best.pt"):
        states = [torch.load(Path(folder, "checkpoints", name), weights_only=True) for folder in ("killed", "whole")]
        for key in ("step", "ema"):
            ours, theirs = (state[key] or {} for state in states)
            assert ours.keys() == theirs.keys()
            assert all(torch.equal(ours[tensor], theirs[tensor]) for tensor in ours), (name, key)
    assert torch.equal(*(flat_optimizer(folder) for folder in ("killed", "whole")))


def flat_optimizer(folder: str) -> torch.Tensor:
    state = torch.load(Path(folder, "checkpoints", "last.pt"), weights_only=True)["optimizer"]["state"]
    return torch.cat([value.flatten().float() for one in state.values() for value in one.values()])


def test_a_run_killed_three_times_ends_like_one_never_killed(toy_config: Path) -> None:
    settings = ("schedule.epochs=12", "mix.pause=0.01", "train.ema_decay=0.9", "train.accumulate=2")

    def start(folder: str) -> Running:
        return Forked(toy_config, *settings, folder=folder)

    def when(epochs: int, seconds: float) -> Callable[[], object]:
        def wait() -> None:
            metrics, deadline = Path("killed/metrics.jsonl"), time.monotonic() + 60
            while time.monotonic() < deadline and not (
                metrics.exists() and metrics.read_bytes().count(b"\n") >= epochs
            ):
                time.sleep(0.001)
            time.sleep(seconds)

        return wait

    measure(start)
    kills = kill_and_restart(start, [when(1, 0.0), when(3, 0.004), when(6, 0.03)])
    assert kills == 3
    assert_the_same_numbers()


@pytest.mark.slow
@pytest.mark.parametrize(("config", "often"), [("quickstart", 20), ("digits/automix", 5)])
def test_a_run_killed_at_random_instants_ends_like_one_never_killed(
    config: str, often: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of AutoMix the momentum network, the block with its own settings, and the momentum schedule go on too."""
    monkeypatch.chdir(tmp_path)
    path = Path(__file__).parents[2] / "configs" / f"{config}.toml"
    # images of a quarter of the area: the processes start more often than they train
    settings = ("data.size=16", f"schedule.epochs={often + 4}", "train.ema_decay=0.9", "run.device=cpu")

    def start(folder: str) -> Running:
        return Command(path, *settings, folder=folder)

    first, whole = measure(start)
    until = first + 1.5 * (whole - first) / (often + 3)
    generator = random.Random(20)
    instants = [generator.uniform(0, until) for _ in range(often)]
    kills = kill_and_restart(start, [partial(time.sleep, instant) for instant in instants])
    assert kills == often
    assert_the_same_numbers()
