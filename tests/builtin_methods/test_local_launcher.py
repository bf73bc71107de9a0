"""The launcher of one machine: how many go at a time, with what, and that none is left behind."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

import attrs
import pytest
import torch

from mixcore.testing import PluginContract
from mixcore_plugins_builtin.launcher import Local, _slots


class TestLocal(PluginContract):
    role = "launcher"
    plugin = Local


@attrs.define(eq=False)
class Short:
    """Stands for a run: a process that does what the code says."""

    name: str
    code: str
    device: str = "auto"
    process: Any = None
    environment: Mapping[str, str] = attrs.field(factory=dict)

    def start(self, environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
        self.environment = environment
        self.process = subprocess.Popen([sys.executable, "-S", "-E", "-c", self.code])
        return self.process


def launch(runs: list[Short], jobs: int | None = None, stop: Callable[[], bool] = lambda: False, **options: Any) -> Any:
    told: list[tuple[str, int | None]] = []
    Local(**options).launch_runs(runs, jobs, lambda run, code: told.append((run.name, code)), stop)
    return told


def test_each_is_reported_as_it_starts_and_ends() -> None:
    runs = [Short("a", "raise SystemExit(3)"), Short("b", "import os; os.kill(os.getpid(), 9)"), Short("c", "")]
    assert launch(runs) == [("a", None), ("a", 3), ("b", None), ("b", -9), ("c", None), ("c", 0)]


def test_so_many_go_at_a_time() -> None:
    runs = [Short(name, "import time; time.sleep(0.3)") for name in "abcd"]
    at_a_time, most = 0, 0
    for _, code in launch(runs, jobs=2):
        at_a_time += 1 if code is None else -1
        most = max(most, at_a_time)
    assert (most, at_a_time) == (2, 0)


def test_when_asked_to_stop_those_that_go_may_write_and_no_other_starts() -> None:
    polite = "import signal, sys, time; signal.signal(15, lambda *_: sys.exit(75)); print(flush=True); time.sleep(60)"
    runs = [Short("a", polite), Short("b", "")]
    asked = time.monotonic() + 1.0
    assert launch(runs, stop=lambda: time.monotonic() > asked) == [("a", None), ("a", 75)]
    deaf = Short("deaf", "import signal, time; signal.signal(15, signal.SIG_IGN); time.sleep(60)")
    asked = time.monotonic() + 1.0
    assert launch([deaf], stop=lambda: time.monotonic() > asked, grace=0.3) == [("deaf", None)]
    assert deaf.process.returncode == -9


def test_an_error_leaves_no_process_behind() -> None:
    run = Short("a", "import time; time.sleep(60)")

    def stop() -> bool:
        if run.process is not None:
            raise KeyboardInterrupt
        return False

    with pytest.raises(KeyboardInterrupt):
        launch([run], stop=stop)
    assert run.process.returncode == -9


def test_threads_and_devices_are_divided(monkeypatch: pytest.MonkeyPatch) -> None:
    runs: Any = [Short("a", ""), Short("b", "", device="cpu")]
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr("os.cpu_count", lambda: 8)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert _slots(runs, None) == [{"OMP_NUM_THREADS": "8"}]
    assert _slots(runs, 3) == [{"OMP_NUM_THREADS": "2"}] * 3
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert [slot["CUDA_VISIBLE_DEVICES"] for slot in _slots(runs, None)] == ["0", "1"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,GPU-a")
    assert [slot["CUDA_VISIBLE_DEVICES"] for slot in _slots(runs, 3)] == ["5", "GPU-a", "5"]
    assert _slots(runs[1:], None) == [{"OMP_NUM_THREADS": "8"}]  # nothing of the CPU's goes to a device
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert _slots(runs[1:], 2) == [{"OMP_NUM_THREADS": "1"}] * 2
