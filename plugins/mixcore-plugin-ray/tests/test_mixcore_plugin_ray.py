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

LONG = """
import os, pathlib, time
with open("starts", "a") as file:
    file.write(f"{os.getpid()}\\n")
if pathlib.Path("starts").read_text().count("\\n") == 1:
    time.sleep(600)
print("went on")
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
    """Two nodes of one CPU each on this machine, on the loopback interface alone; the first has no room for tasks."""
    monkeypatch.setenv("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")  # Ray then takes 127.0.0.1 for a machine's address
    monkeypatch.setattr("ray._private.ray_constants.ENABLE_RAY_CLUSTER", False)
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    node = {"node_ip_address": "127.0.0.1", "include_dashboard": False, "object_store_memory": 80 * 2**20}
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, **node})
    try:
        for _ in range(2):
            made.add_node(num_cpus=1, **node)
        yield made
    finally:
        ray.shutdown()
        made.shutdown()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_lost_node_and_exit_code_75_mean_again(cluster: Cluster, stand_in: Path) -> None:
    runs = [job(stand_in, "lost", LONG), job(stand_in, "preempted", ONCE_PREEMPTED), job(stand_in, "failed", "exit(3)")]
    told: list[tuple[str, int | None]] = []
    starts = stand_in / "lost" / "starts"

    def lose_its_node() -> None:
        while not starts.exists():
            time.sleep(0.05)
        here = {node["NodeID"]: node for node in ray.nodes()}
        # the task that sleeps is the only one left when the others have ended
        while len(told) < 5:
            time.sleep(0.05)
        busy = [node for node in cluster.worker_nodes if starts.read_text().split()[0] in _children(node)]
        assert len(busy) == 1, here
        cluster.remove_node(busy[0], allow_graceful=False)

    killer = threading.Thread(target=lose_its_node)
    killer.start()
    Ray(address=cluster.address).launch_runs(runs, None, lambda run, code: told.append((run.name, code)), lambda: False)
    killer.join()
    assert {name: code for name, code in told if code is not None} == {"lost": 0, "preempted": 0, "failed": 3}
    first, second = starts.read_text().split()
    assert not Path(f"/proc/{first}").exists()  # it died with its node, so that nothing trains on unseen
    assert first != second
    assert runs[0].log.read_text().rstrip().endswith("went on")


def _children(node: Any) -> set[str]:
    """Process numbers of all that a node's processes have started."""
    found = {str(info.process.pid) for infos in node.all_processes.values() for info in infos}
    parents = {path.name: (path / "stat").read_text().rpartition(")")[2].split()[1] for path in _processes()}
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    return found


def _processes() -> list[Path]:
    return [path for path in Path("/proc").iterdir() if path.name.isdigit() and (path / "stat").exists()]
