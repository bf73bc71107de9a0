"""Slurm: the contract, jobs of submitit's local and debug executors, and what is asked of a cluster."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import submitit
from mixcore_plugin_slurm import launcher as module
from mixcore_plugin_slurm.launcher import Slurm
from mixcore_plugin_slurm.task import CarriedOut
from submitit.helpers import DelayedSubmission

from mixcore.api import ConfigError, RunJob
from mixcore.testing import PluginContract

ONCE_PREEMPTED = """
import pathlib, sys
there = pathlib.Path("was-here")
if there.exists():
    print("went on")
    sys.exit(0)
there.touch()
sys.exit(75)
"""


class TestSlurm(PluginContract):
    role = "launcher"
    plugin = Slurm


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[RunJob]:
    """Two runs: their processes do what `run.py` in the folder of each says."""
    site = tmp_path / "site"
    site.mkdir()
    # in place of mixcore run, here and in the processes of submitit
    (site / "sitecustomize.py").write_text(
        "import sys\n"
        "if sys.argv[1:2] == ['run'] or '-m' in sys.orig_argv and 'mixcore' in sys.orig_argv:\n"
        "    import os, pathlib\n"
        "    source = pathlib.Path(sys.orig_argv[-1]).with_name('run.py')\n"
        "    os.chdir(source.parent)\n"
        "    os.execv(sys.executable, [sys.executable, '-S', str(source)])\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(site))
    monkeypatch.setattr(sys, "path", [str(site), *sys.path])
    made = []
    for name, code in {"a": "raise SystemExit(3)", "b": ONCE_PREEMPTED}.items():
        folder = tmp_path / name
        folder.mkdir()
        (folder / "run.py").write_text(code)
        made.append(RunJob(name=name, config=folder / "config.toml", directory=tmp_path))
    return made


def launch(runs: Sequence[RunJob], **options: Any) -> list[tuple[str, int | None]]:
    told: list[tuple[str, int | None]] = []
    Slurm(**options).launch_runs(runs, None, lambda run, code: told.append((run.name, code)), lambda: False)
    return told


def test_local_jobs_are_queued_again_after_exit_code_75(runs: list[RunJob]) -> None:
    told = launch(runs, cluster="local", gpus_per_node=0)
    assert sorted(told, key=str) == [("a", 3), ("a", None), ("b", 0), ("b", None)]
    assert told.index(("b", None)) < told.index(("b", 0))
    log = runs[1].log.read_text()
    assert log.count(f"[{os.uname().nodename}, ") == 2  # two starts of one run
    assert log.rstrip().endswith("went on")
    known = json.loads((runs[0].config.parent.parent / "submitit" / "jobs.json").read_text())
    assert sorted(known) == ["a", "b"]


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")  # its logs
def test_the_debug_executor_has_no_queue_to_go_back_to(runs: list[RunJob]) -> None:
    assert launch(runs, cluster="debug", gpus_per_node=0) == [("a", None), ("a", 3), ("b", None), ("b", 75)]


def test_at_a_checkpoint_the_run_ends_first(runs: list[RunJob]) -> None:
    code = "import pathlib, signal, sys, time\nsignal.signal(15, lambda *_: sys.exit(75))\npathlib.Path('up').touch()\n"
    (runs[0].config.parent / "run.py").write_text(f"{code}time.sleep(60)")
    task = CarriedOut(runs[0])

    def interrupted(*_: object) -> None:
        asked.append(task.checkpoint())

    asked: list[DelayedSubmission] = []
    before = signal.signal(signal.SIGALRM, interrupted)
    up = runs[0].config.parent / "up"
    try:
        signal.setitimer(signal.ITIMER_REAL, 1.5)
        assert task() == 75  # interrupted while it waits, as submitit's handler does
    finally:
        signal.signal(signal.SIGALRM, before)
    assert up.exists()
    [delayed] = asked
    assert isinstance(delayed.function, CarriedOut)
    assert delayed.function.run == runs[0]


def test_without_slurm_it_says_what_submitit_misses(runs: list[RunJob], monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="slurm: submitit refuses: "):
        launch(runs, parameters={"slurm_partitoin": "x"}, cluster="slurm")


class Cluster:
    """Stands for Slurm: takes the jobs, and says what became of them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, states: dict[str, str]) -> None:
        self.arrays: list[list[str]] = []
        self.parameters: dict[str, Any] = {}
        monkeypatch.setattr(module.submitit, "AutoExecutor", self._executor)
        monkeypatch.setattr(module, "_exit_code", lambda run, job: 0)
        monkeypatch.setattr(module, "_POLL", {"slurm": 0.0})
        monkeypatch.setattr(submitit.SlurmJob, "done", lambda job, force_check=False: True)
        monkeypatch.setattr(submitit.SlurmJob.watcher, "get_state", lambda job_id, mode: states.get(job_id, "UNKNOWN"))

    def _executor(self, folder: Path, **_: Any) -> Any:
        cluster = self

        class Executor:
            def update_parameters(self, **given: Any) -> None:
                cluster.parameters = given

            def batch(self) -> Any:
                import contextlib

                cluster.arrays.append([])
                return contextlib.nullcontext()

            def submit(self, task: CarriedOut) -> Any:
                cluster.arrays[-1].append(task.run.name)
                return submitit.SlurmJob(folder, f"7_{len(cluster.arrays[-1]) - 1}")

        return Executor()


def test_one_array_and_what_is_asked_for(runs: list[RunJob], monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = Cluster(monkeypatch, {})
    told: list[tuple[str, int | None]] = []
    options: dict[str, Any] = {"partition": "long", "gpus_per_node": 2, "parameters": {"slurm_qos": "low"}}
    Slurm(**options).launch_runs(runs, 5, lambda run, code: told.append((run.name, code)), lambda: False)
    assert cluster.arrays == [["a", "b"]]
    assert told == [("a", None), ("a", 0), ("b", None), ("b", 0)]
    assert cluster.parameters == {
        "name": "mixcore",
        "timeout_min": 240,
        "cpus_per_task": 4,
        "gpus_per_node": 2,
        "slurm_array_parallelism": 5,
        "slurm_partition": "long",
        "slurm_qos": "low",
    }


def test_jobs_that_still_go_are_not_submitted_again(runs: list[RunJob], monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = Cluster(monkeypatch, {"3_0": "FAILED", "3_1": "RUNNING"})
    folder = runs[0].config.parent.parent / "submitit"
    folder.mkdir()
    (folder / "jobs.json").write_text('{"a": "3_0", "b": "3_1"}')
    assert ("b", 0) in launch(runs)
    assert cluster.arrays == [["a"]]
    assert json.loads((folder / "jobs.json").read_text()) == {"b": "3_1", "a": "7_0"}
