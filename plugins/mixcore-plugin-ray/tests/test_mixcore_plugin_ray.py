"""Ray: the contract, and a sweep on a real cluster of two nodes on this machine, one of them lost in mid-run."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
from mixcore_plugin_ray.launcher import Ray
from mixcore_plugin_ray.task import RunPreemptedError, carry_out
from ray.cluster_utils import Cluster

from mixcore.api import ConfigError, RunJob
from mixcore.testing import PluginContract

HELD = """
import os, pathlib, time
with open("starts", "a") as file:
    file.write(f"{os.getpid()}\\n")
while not pathlib.Path("../release").exists():
    time.sleep(0.05)
"""
ONCE_PREEMPTED = """
import pathlib, sys
there = pathlib.Path("was-here")
if not there.exists():
    there.touch()
    sys.exit(75)
print("went on")
"""


class TestRay(PluginContract):
    role = "launcher"
    plugin = Ray


def job(tmp_path: Path, name: str, code: str) -> RunJob:
    """A run whose process does what `code` says, in its folder (see `stand_in`)."""
    folder = tmp_path / name
    folder.mkdir()
    (folder / "run.py").write_text(code)
    return RunJob(name=name, config=folder / "config.toml", directory=tmp_path)


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """In place of `mixcore run`, here and on the cluster: run.py beside the configuration."""
    site = tmp_path / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(
        "import sys\n"
        "if sys.orig_argv[-4:-1] == ['-m', 'mixcore', 'run']:\n"
        "    import os, pathlib\n"
        "    source = pathlib.Path(sys.orig_argv[-1]).with_name('run.py')\n"
        "    os.chdir(source.parent)\n"
        "    os.execv(sys.executable, [sys.executable, '-S', str(source)])\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(site))
    monkeypatch.setattr(sys, "path", [str(site), *sys.path])
    return tmp_path


def test_exit_codes_of_a_task(stand_in: Path) -> None:
    assert carry_out(job(stand_in, "a", "raise SystemExit(2)")) == 2
    preempted = job(stand_in, "b", ONCE_PREEMPTED)
    with pytest.raises(RunPreemptedError, match="b"):
        carry_out(preempted)
    assert carry_out(preempted) == 0
    assert preempted.log.read_text().rstrip().endswith("went on")


def test_without_a_cluster_it_says_how_to_start_one(stand_in: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_cluster(**_: Any) -> None:
        raise ConnectionError("could not find any running Ray instance")

    monkeypatch.setattr(ray, "init", no_cluster)
    with pytest.raises(ConfigError, match=r"no cluster at 'auto' .*Start one with ray start --head"):
        Ray().launch_runs([job(stand_in, "a", "")], None, lambda run, code: None, lambda: False)


@pytest.fixture
def cluster(stand_in: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """Two nodes of one CPU each on this machine, on the loopback interface alone."""
    monkeypatch.setenv("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")  # Ray then takes 127.0.0.1 for a machine's address
    monkeypatch.setattr("ray._private.ray_constants.ENABLE_RAY_CLUSTER", False)
    monkeypatch.setattr(
        "ray._private.ray_constants.RAY_ENABLE_UV_RUN_RUNTIME_ENV", False
    )  # ray was imported first here
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    node = {"num_cpus": 1, "node_ip_address": "127.0.0.1", "include_dashboard": False}
    made = Cluster(initialize_head=True, head_node_args=node)
    try:
        made.add_node(**node)
        yield made
    finally:
        ray.shutdown()
        made.shutdown()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # Ray's own files and sockets
def test_a_lost_node_and_exit_code_75_mean_again(cluster: Cluster, stand_in: Path) -> None:
    codes = {"held-0": HELD, "held-1": HELD, "preempted": ONCE_PREEMPTED, "failed": "raise SystemExit(3)"}
    runs = [job(stand_in, name, code) for name, code in codes.items()]
    held = [stand_in / name / "starts" for name in ("held-0", "held-1")]
    [lost] = cluster.worker_nodes

    def lose_a_node() -> None:
        while not all(starts.exists() for starts in held):  # one on each node
            time.sleep(0.05)
        cluster.remove_node(lost, allow_graceful=False)
        (stand_in / "release").touch()

    killer = threading.Thread(target=lose_a_node)
    killer.start()
    told: list[tuple[str, int | None]] = []
    Ray(address=cluster.address).launch_runs(runs, None, lambda run, code: told.append((run.name, code)), lambda: False)
    killer.join()
    assert sorted((name, code) for name, code in told if code is not None) == [
        ("failed", 3),
        ("held-0", 0),
        ("held-1", 0),
        ("preempted", 0),
    ]
    assert sorted(name for name, code in told if code is None) == sorted(codes)
    assert all(told.index((name, None)) < told.index((name, code)) for name, code in told if code is not None)
    kept, again = sorted((starts.read_text().split() for starts in held), key=len)
    assert (len(kept), len(again)) == (1, 2)
    assert not Path(f"/proc/{again[0]}").exists()  # it died with its node, so that nothing trained on unseen
    assert (stand_in / "preempted" / "output.log").read_text().rstrip().endswith("went on")
