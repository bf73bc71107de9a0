"""Several processes: their places, the launcher, one agreed stop, and the numbers of one process."""

from __future__ import annotations

import importlib
import json
import platform
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from mixcore.config.schema import RunSection
from mixcore.errors import ConfigError, MixcoreError
from mixcore.run import launch as launching
from mixcore.run.launch import raised_on_rank_zero, reported
from mixcore.run.place import Place
from mixcore.run.processes import _check_devices, _choose_device, _first_host, joined
from mixcore.train.agreement import Agreement, Processes


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


@pytest.fixture
def visible(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], list[torch.device]]:
    """`visible(2)`: this process sees two CUDA devices; the list fills with those that it takes."""
    taken: list[torch.device] = []

    def see(count: int) -> list[torch.device]:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
        monkeypatch.setattr(torch.cuda, "set_device", taken.append)
        return taken

    return see


@pytest.mark.parametrize(("count", "local_rank", "taken"), [(4, 0, 0), (4, 3, 3), (1, 0, 0), (1, 1, 0), (1, 7, 0)])
def test_a_process_takes_the_device_with_its_number_or_the_only_one(
    visible: Callable[[int], list[torch.device]], count: int, local_rank: int, taken: int
) -> None:
    # srun --gpus-per-task=1: task 1 of a machine sees one device, its own
    found = visible(count)
    device = _choose_device("auto", Place(rank=local_rank, local_rank=local_rank, world=8))
    assert [device] == found == [torch.device("cuda", taken)]


def test_more_processes_than_devices_are_refused(visible: Callable[[int], list[torch.device]]) -> None:
    visible(2)
    with pytest.raises(ConfigError, match=r"process 2 of this machine finds no device of its own among 2; start at"):
        _choose_device("cuda", Place(rank=2, local_rank=2, world=4))


@pytest.mark.parametrize(
    ("identities", "said"),
    [
        (["GPU-a", "GPU-b", "GPU-c"], None),
        ([None, None, None], None),  # processes share a CPU
        (["GPU-a", "GPU-b", "GPU-a"], r"processes 0 and 2 were given the same device, GPU-a; start one process per"),
    ],
)
def test_two_processes_on_one_device_are_refused(
    monkeypatch: pytest.MonkeyPatch, identities: list[str | None], said: str | None
) -> None:
    processes = Processes(rank=0, world=3, device=torch.device("cpu"))
    monkeypatch.setattr(Processes, "gather", lambda _self, _own: identities)
    if said is None:
        _check_devices(processes)
        return
    with pytest.raises(ConfigError, match=said):
        _check_devices(processes)


@pytest.fixture
def child(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Makes this process one that `launch` started; the folder that it shares with its parent."""
    monkeypatch.setenv("MIXCORE_LAUNCH", str(tmp_path))
    monkeypatch.setattr(launching, "die_with_launcher", lambda: None)
    return tmp_path


def test_a_child_leaves_its_error_to_the_parent(child: Path) -> None:
    error = ConfigError("seed is wrong")
    error.add_note("in a file")
    with pytest.raises(SystemExit) as left, reported(1):
        raise error
    assert left.value.code == 2
    with pytest.raises(SystemExit) as left, reported(0):
        raise KeyError("later")
    assert left.value.code == 1
    found = launching._cause({0: 1, 1: 2}, str(child), stopped=0, debug=False)
    assert (str(found), found.exit_code, found.__notes__) == ("seed is wrong", 2, ["in a file"])
    assert "Traceback" in launching._cause({0: 1, 1: 2}, str(child), stopped=0, debug=True).__notes__[-1]


def test_a_child_that_leaves_early_has_failed(child: Path) -> None:
    with pytest.raises(SystemExit) as left, reported(0):
        sys.exit(0)
    assert left.value.code == 1
    found = launching._cause({0: 1}, str(child), stopped=0, debug=False)
    assert f"{__file__}, line" in str(found)
    assert "called for the end of the process, SystemExit(0), before the run was done" in str(found)


def test_leaving_early_is_an_error_without_a_launch_too() -> None:
    with pytest.raises(MixcoreError, match=r"SystemExit\('bye'\), before the run was done"), reported(0):
        sys.exit("bye")
    with pytest.raises(SystemExit) as left, reported(1), raised_on_rank_zero(1, ConfigError):
        raise ConfigError("to all alike")
    assert left.value.code == 2


@pytest.mark.parametrize(
    ("outcome", "codes", "said"),
    [
        (("Connection closed by peer", False), {0: 1, 1: -9}, "process 1 was killed by SIGKILL, perhaps for lack of"),
        (("Connection closed by peer", False), {0: 1}, "Connection closed by peer"),
        (
            ("Connection closed by peer", False),
            {0: 1, 1: 0},
            "process 1 ended with exit code 0 before the run was done",
        ),
        (("the loss became nan", True), {0: 1, 1: -9}, "the loss became nan"),
        (None, {0: -11}, "process 0 was killed by SIGSEGV and left no message"),
        (None, {1: 3}, "process 1 ended with exit code 3 and left no message"),
        (None, {0: 75, 1: -15}, "process 1 was killed by SIGTERM and left no message"),
        (None, {0: 75}, "stopped by SIGTERM: nothing was being trained"),
        (("Connection closed by peer", False), {0: 1, 1: 130}, "stopped by SIGINT: nothing was being trained"),
    ],
)
def test_the_cause_is_told_from_its_consequences(
    tmp_path: Path, outcome: tuple[str, bool] | None, codes: dict[int, int], said: str
) -> None:
    if outcome is not None:
        left = {"time": 1, "exit_code": 1, "message": outcome[0], "ours": outcome[1], "notes": [], "traceback": ""}
        (tmp_path / "rank-0.json").write_text(json.dumps(left))
    assert str(launching._cause(codes, str(tmp_path), stopped=0, debug=False)).startswith(said)


def test_children_that_a_signal_ended_before_they_could_handle_it(tmp_path: Path) -> None:
    found = launching._cause({0: -15, 1: 75}, str(tmp_path), stopped=75, debug=False)
    assert (str(found)[:18], found.exit_code) == ("stopped by SIGTERM", 75)
    assert launching._cause({0: -15, 1: -9}, str(tmp_path), stopped=75, debug=False).exit_code == 1


def test_under_a_foreign_launcher_rank_0_alone_speaks(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError), raised_on_rank_zero(0, ConfigError):
        raise ConfigError("to all alike")
    with pytest.raises(SystemExit) as left, raised_on_rank_zero(1, ConfigError):
        raise ConfigError("to all alike")
    assert left.value.code == 2
    with pytest.raises(MixcoreError), raised_on_rank_zero(1, ConfigError):
        raise MixcoreError("to one")
    monkeypatch.setenv("MIXCORE_LAUNCH", "folder")  # our own launcher chooses who speaks
    with pytest.raises(ConfigError), raised_on_rank_zero(1, ConfigError):
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


@pytest.mark.ddp
def test_processes_that_find_different_checkpoints_are_refused(two: Two) -> None:
    # a folder per rank stands for the disks of two machines; rank 0 alone writes to its own
    stopping = ("mix.signal_at=4", "mix.only_rank=0")
    assert two(*stopping, folder="disk-{rank}") == [75, 75]
    assert two(*stopping, folder="disk-{rank}") == [2, 2]
    said = Path("error-0").read_text()
    host = platform.node()
    assert f"process 0 on {host}: last.pt, iteration 6\n" in said
    assert f"process 1 on {host}: no checkpoint\n" in said
    assert "copy" in said
    assert not Path("disk-1/metrics.jsonl").exists()

    shutil.copytree("disk-0", "disk-1")
    Path("disk-1/checkpoints/previous.pt").replace("disk-1/checkpoints/last.pt")
    assert two(*stopping, folder="disk-{rank}") == [2, 2]
    assert f"process 1 on {host}: last.pt, iteration 3\n" in Path("error-0").read_text()

    shutil.copyfile("disk-0/checkpoints/last.pt", "disk-1/checkpoints/last.pt")
    assert two(*stopping, folder="disk-{rank}") == [0, 0]


@pytest.mark.ddp
def test_a_damage_that_all_processes_find_is_said_by_rank_0(two: Two) -> None:
    assert two("mix.signal_at=4", "mix.only_rank=0") == [75, 75]
    Path("error-1").unlink()
    Path("run/checkpoints/last.pt").write_bytes(b"")
    assert two("mix.signal_at=4", "mix.only_rank=0") == [2, 2]
    assert Path("error-0").read_text().startswith("run/checkpoints/last.pt is no checkpoint")
    assert not Path("error-1").exists()


# --- the launcher, with real commands --------------------------------------------------------------------------------


def arguments(config: Path, *overrides: str) -> list[str]:
    settings = [part for override in overrides for part in ("--set", override)]
    return [sys.executable, "-m", "mixcore", "run", str(config), "--nproc", "2", *settings]


@pytest.fixture
def one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


@pytest.mark.ddp
@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("mix.nan_at=4", "the loss became nan at epoch 2, iteration 4: mixer toy_mix"),
        ("mix.exit_at=4", "process 1 ended with exit code 0 before the run was done and left no message"),
    ],
)
def test_what_ended_one_process_is_said_once(toy_config: Path, fault: str, said: str) -> None:
    command = arguments(toy_config, fault, "mix.only_rank=1")
    failed = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert failed.returncode == 1
    assert failed.stderr.startswith(f"mixcore: {said}")
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
