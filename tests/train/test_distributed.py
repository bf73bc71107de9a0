"""Several processes: their places, the launcher, one agreed stop, and the numbers of one process."""

from __future__ import annotations

import importlib
import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from mixcore.config.schema import RunSection
from mixcore.errors import ConfigError, MixcoreError
from mixcore.train import launch as launching
from mixcore.train.distributed import Agreement, Place, Processes, _first_host, find_place, joined
from mixcore.train.launch import launch, reported, said_once

TORCHRUN = {"RANK": "5", "LOCAL_RANK": "1", "WORLD_SIZE": "8"}
SLURM = {"SLURM_PROCID": "3", "SLURM_LOCALID": "3", "SLURM_STEP_NUM_TASKS": "4"}


def test_the_place_is_what_the_launcher_says() -> None:
    assert find_place({}) == Place(rank=0, local_rank=0, world=1)
    assert find_place(TORCHRUN) == Place(rank=5, local_rank=1, world=8)
    assert find_place(SLURM) == Place(rank=3, local_rank=3, world=4)
    assert find_place({**SLURM, **TORCHRUN}).world == 8
    # a batch script that calls mixcore without srun is one process, however many tasks the job has
    assert find_place({"SLURM_PROCID": "0", "SLURM_NTASKS": "4"}) == Place()


@pytest.mark.parametrize(
    ("nodes", "first"), [("login1", "login1"), ("gpu[03-07,09],login1", "gpu03"), ("a1,a2", "a1"), ("n-[1,4]", "n-1")]
)
def test_the_first_host_of_a_slurm_node_list(nodes: str, first: str) -> None:
    assert _first_host(nodes) == first


def test_a_single_process_agrees_with_itself() -> None:
    alone = Processes(device=torch.device("cpu"))
    agree = Agreement(alone)
    assert [agree(0), agree(75), agree.finish()] == [0, 75, 0]
    assert alone.gather("x") == ["x"]


def test_a_device_that_is_not_there_is_refused() -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a CUDA device")
    refused = pytest.raises(ConfigError, match=r'run\.device = "cuda", but torch finds no CUDA device; use')
    with refused, joined(RunSection(device="cuda"), Place()):
        pass


def test_a_port_in_use_is_refused_before_anything_starts() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=rf"run\.port = {port} cannot be used: Address already in use"):
            launch(["run"], 2, port)


def test_a_child_leaves_its_error_to_the_parent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MIXCORE_OUTCOMES", str(tmp_path))
    monkeypatch.setattr(launching, "_die_with_parent", lambda: None)
    error = ConfigError("seed is wrong")
    error.add_note("in a file")
    with pytest.raises(SystemExit) as left, reported(1):
        raise error
    assert left.value.code == 2
    with pytest.raises(SystemExit) as left, reported(0):
        raise KeyError("later")
    assert left.value.code == 1
    first = launching._first_outcome(str(tmp_path))
    assert first is not None
    found = launching._as_error(first, debug=False)
    assert (str(found), found.exit_code, found.__notes__) == ("seed is wrong", 2, ["in a file"])
    assert "Traceback" in launching._as_error(first, debug=True).__notes__[-1]


@pytest.mark.parametrize(
    ("outcome", "codes", "said"),
    [
        (("Connection closed by peer", False), {0: 1, 1: -9}, "process 1 was killed by SIGKILL, perhaps for lack of"),
        (("Connection closed by peer", False), {0: 1, 1: -15}, "Connection closed by peer"),
        (("the loss became nan", True), {0: -15, 1: 1}, "the loss became nan"),
        (("the loss became nan", True), {0: -9, 1: 1}, "the loss became nan"),
        (None, {0: -11}, "process 0 was killed by SIGSEGV and left no message"),
        (None, {1: 3}, "process 1 ended with exit code 3 and left no message"),
    ],
)
def test_the_cause_is_told_from_its_consequences(
    tmp_path: Path, outcome: tuple[str, bool] | None, codes: dict[int, int], said: str
) -> None:
    if outcome is not None:
        left = {"time": 1, "exit_code": 1, "message": outcome[0], "ours": outcome[1], "notes": [], "traceback": ""}
        (tmp_path / "rank-1.json").write_text(json.dumps(left))
    failures = {rank: SimpleNamespace(exitcode=code) for rank, code in codes.items()}
    assert str(launching._cause(failures, str(tmp_path), debug=False)).startswith(said)


def test_under_a_foreign_launcher_rank_0_alone_speaks(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError), said_once(0, ConfigError):
        raise ConfigError("to all alike")
    with pytest.raises(SystemExit) as left, said_once(1, ConfigError):
        raise ConfigError("to all alike")
    assert left.value.code == 2
    with pytest.raises(MixcoreError), said_once(1, ConfigError):
        raise MixcoreError("to one")
    monkeypatch.setenv("MIXCORE_OUTCOMES", "folder")  # our own launcher chooses who speaks
    with pytest.raises(ConfigError), said_once(1, ConfigError):
        raise ConfigError("to all alike")


def test_outside_a_launch_errors_pass() -> None:
    with pytest.raises(ConfigError), reported(0):
        raise ConfigError("as it is")


# --- with two processes ----------------------------------------------------------------------------------------------

Two = Callable[..., list[int | None]]


@pytest.fixture
def two(toy_config: Path) -> Two:
    """`two("mix.pause=1", folder="run")`: a run of two gloo processes on the toy configuration; their exit codes."""
    processes = importlib.import_module("toy_processes")

    def call(*overrides: str, folder: str = "run", world: int = 2) -> list[int | None]:
        codes: list[int | None] = processes.finish(processes.start(toy_config, overrides, folder, world))
        return codes

    return call


def records(folder: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (Path(folder) / "metrics.jsonl").read_text().splitlines()]


def weights(folder: str) -> dict[str, torch.Tensor]:
    return torch.load(Path(folder) / "checkpoints" / "last.pt", weights_only=True)["step"]


@pytest.mark.ddp
@pytest.mark.parametrize("settings", [(), ("train.accumulate=2", "train.ema_decay=0.9")], ids=["plain", "accumulated"])
def test_two_processes_stop_together_and_go_on_as_if_they_had_not(two: Two, settings: tuple[str, ...]) -> None:
    assert two(*settings, folder="whole") == [0, 0]
    # the signal reaches one process only; both must stop after the same iteration
    stopping = (*settings, "mix.signal_at=3", "mix.only_rank=1")
    assert two(*stopping) == [75, 75]
    assert "holds epoch 2, iteration" in Path("error-0").read_text()
    assert Path("error-0").read_text() == Path("error-1").read_text()
    assert two(*stopping) == [0, 0]
    assert records("run") == records("whole")
    assert all(torch.equal(value, weights("whole")[name]) for name, value in weights("run").items())


@pytest.mark.ddp
def test_a_run_goes_on_with_another_number_of_processes(two: Two) -> None:
    assert two("mix.signal_at=4", "mix.only_rank=1") == [75, 75]
    assert two("mix.signal_at=4", "mix.only_rank=1", world=1) == [0]
    assert [record["epoch"] for record in records("run")] == [1, 2, 3, 4]


@pytest.mark.ddp
def test_two_processes_count_every_validation_image_once(two: Two) -> None:
    # at learning rate 0 the weights are the same on any number of processes, but BatchNorm's statistics are not:
    # with momentum 0 they stay as they were made. 13 images are odd.
    settings = ("optimizer.lr=0.0", "schedule.epochs=1", "eval.batch_size=4", "backbone.norm_momentum=0.0")
    assert two(*settings, folder="two") == [0, 0]
    assert two(*settings, folder="one", world=1) == [0]
    counted = [{tag: value for tag, value in records(name)[0].items() if tag[:3] == "val"} for name in ("one", "two")]
    assert counted[0].pop("val/loss") == pytest.approx(counted[1].pop("val/loss"), rel=1e-6)
    assert counted[0] == counted[1]


@pytest.mark.ddp
def test_gradients_are_those_of_the_whole_batch(two: Two) -> None:
    # without BatchNorm's and dropout's dependence on the share of the batch, and with every partner inside a group
    # that no process boundary cuts, two processes compute what one does
    settings = ("schedule.epochs=1", "backbone.dropout=0.0", "backbone.norm=false", "mix.group_size=2")
    assert two(*settings, folder="two") == [0, 0]
    assert two(*settings, folder="one", world=1) == [0]
    one = weights("one")
    for name, value in weights("two").items():
        torch.testing.assert_close(value, one[name], rtol=1e-5, atol=1e-6)
    assert records("two")[0]["train/loss"] == pytest.approx(records("one")[0]["train/loss"], rel=1e-5)


@pytest.mark.ddp
def test_processes_that_cannot_share_a_batch_are_refused(two: Two) -> None:
    assert two("data.batch_size=9") == [2, 2]
    assert "data.batch_size = 9 cannot be shared by 2 processes equally" in Path("error-0").read_text()


# --- the launcher, with real commands --------------------------------------------------------------------------------


def arguments(config: Path, *overrides: str) -> list[str]:
    settings = [part for override in overrides for part in ("--set", override)]
    return [sys.executable, "-m", "mixcore", "run", str(config), "--nproc", "2", *settings]


@pytest.fixture
def one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


@pytest.mark.ddp
@pytest.mark.usefixtures("one_thread")
def test_an_error_in_one_process_is_said_once(toy_config: Path) -> None:
    command = arguments(toy_config, "mix.nan_at=4", "mix.only_rank=1")
    failed = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert failed.returncode == 1
    assert failed.stderr.startswith("mixcore: the loss became nan at epoch 2, iteration 4: mixer toy_mix")
    assert len(failed.stderr.splitlines()) == 1
    assert failed.stdout.count("epoch 1/4") == 1


@pytest.mark.ddp
@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
def test_a_signal_to_the_launcher_reaches_all(toy_config: Path) -> None:
    command = arguments(toy_config, "schedule.epochs=2000", "mix.pause=0.02")
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        wait_for(Path("run/metrics.jsonl"))
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=120)
    assert process.returncode == 75, errors
    assert errors.startswith("mixcore: stopped by SIGTERM: run/checkpoints/last.pt holds epoch")
    assert len(errors.splitlines()) == 1


@pytest.mark.ddp
@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
def test_killing_the_launcher_leaves_no_process_that_writes(toy_config: Path) -> None:
    command = arguments(toy_config, "schedule.epochs=2000", "mix.pause=0.02")
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        wait_for(Path("run/metrics.jsonl"))
        process.kill()
    time.sleep(1)
    before = Path("run/metrics.jsonl").read_bytes()
    time.sleep(3)
    assert Path("run/metrics.jsonl").read_bytes() == before


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + 120
    while not path.exists() and time.monotonic() < deadline:
        time.sleep(0.1)
