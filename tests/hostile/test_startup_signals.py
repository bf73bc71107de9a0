"""Signals before training has begun: none is swallowed by whatever is being imported, and the exit code tells which."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

START_UPS = 40
SEED = 8

SWALLOWING = """
import importlib.abc, os, signal, sys
from mixcore.cli.main import main

class Interrupted(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name == {moment!r}:
            try:
                os.kill(os.getpid(), {number})
            except BaseException:
                pass

sys.meta_path.insert(0, Interrupted())
sys.exit(main(["run", "toy.toml"]))
"""
"""A start that a signal interrupts at the import of a module, in code that swallows every exception."""


@pytest.mark.parametrize(
    ("moment", "number", "code"),
    [
        ("mixcore.cli.run", signal.SIGTERM, 75),
        ("mixcore.cli.run", signal.SIGINT, 130),
        ("torch", signal.SIGTERM, 75),
        ("torch", signal.SIGINT, 130),
        ("mixcore_toy", signal.SIGINT, 130),  # a plugin, once torch is there
    ],
)
def test_a_signal_at_an_import_ends_the_command(
    toy_config: Path, moment: str, number: signal.Signals, code: int
) -> None:
    script = SWALLOWING.format(moment=moment, number=int(number))
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=200)
    said = f"mixcore: stopped by {number.name}: nothing was being trained. Start again with the same command\n"
    assert (done.returncode, done.stdout, done.stderr) == (code, "", said)
    assert not Path("run").exists()


@pytest.mark.slow
@pytest.mark.parametrize("more", [(), ("--nproc", "2")], ids=["one", "two"])
def test_start_ups_interrupted_at_random_instants(
    toy_config: Path, monkeypatch: pytest.MonkeyPatch, more: tuple[str, ...]
) -> None:
    """40 start-ups: none trains on, none ends well, none leaves a process behind that writes."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    began = time.monotonic()
    with started("whole", more) as run:
        while not Path("whole/metrics.jsonl").exists() and run.poll() is None:
            time.sleep(0.05)
        run.kill()
    ready = time.monotonic() - began
    generator = random.Random(SEED)
    print(f"seed {SEED}, {ready:.1f} s from the start to the end of the first epoch")
    before_the_command = 0
    for index in range(START_UPS):
        number, code = [(signal.SIGTERM, 75), (signal.SIGINT, 130)][index % 2]
        instant = generator.uniform(0, ready)
        with started(f"run-{index}", more) as run:
            time.sleep(instant)
            run.send_signal(number)
            errors = run.communicate(timeout=200)[1]
        print(f"{number.name} after {instant:.2f} s: {run.returncode} {errors.strip()[-120:]}")
        if f"mixcore: stopped by {number.name}: " in errors:
            assert run.returncode == code
        else:
            # python itself was still starting, and had not come to the first line of `mixcore run`
            assert run.returncode in (-number, 1)
            assert not Path(f"run-{index}").exists()
            before_the_command += 1
    assert before_the_command < START_UPS / 4


def started(folder: str, more: tuple[str, ...]) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "mixcore", "run", "toy.toml", *more, "--set", f"run.dir={folder}"]
    settings = ("--set", "schedule.epochs=5000", "--set", "mix.pause=0.02")
    pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
    return subprocess.Popen([*command, *settings], text=True, env=os.environ, **pipes)  # type: ignore[call-overload]
