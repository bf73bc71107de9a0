"""Runs per hour of the launchers: the same sweep of quickstart runs, one or two at a time, and by Ray on two nodes.

Each launcher carries out the sweep in a folder of its own, in turns, through `mixcore sweep` itself; what is printed is
the whole time, starts and summaries included. Ray's cluster is two nodes of one CPU each on this machine, started
before the clock. Leave the machine alone meanwhile: the figures are wall-clock time.

    python benchmarks/launchers.py --runs 8 --rounds 2
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

CONFIG = Path(__file__).resolve().parents[1] / "configs" / "quickstart.toml"
SWEEP = """
base = "{base}"
dir = "{folder}"
seeds = {seeds}
[set]
"schedule.epochs" = {epochs}
[launcher]
{launcher}
"""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=8)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=2)
    arguments = parser.parse_args()
    rates: dict[str, list[float]] = {}
    with cluster() as address:
        ways = {
            "local --jobs 1": ('name = "local"', "1"),
            "local --jobs 2": ('name = "local"', "2"),
            "ray, 2 nodes": (f'name = "ray"\naddress = "{address}"', "2"),
        }
        for _ in range(arguments.rounds):
            for name, (launcher, jobs) in ways.items():
                seconds = swept(launcher, jobs, arguments.runs, arguments.epochs)
                rates.setdefault(name, []).append(3600 * arguments.runs / seconds)
    first = statistics.median(rates["local --jobs 1"])
    for name, found in rates.items():
        rate = statistics.median(found)
        print(f"{name:<16} {rate:7.0f} runs an hour  {rate / first:5.2f} times one at a time")


def swept(launcher: str, jobs: str, runs: int, epochs: int) -> float:
    """Seconds that a sweep takes from start to end."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "sweep.toml")
        seeds = list(range(runs))
        path.write_text(
            SWEEP.format(base=CONFIG, folder=Path(folder, "runs"), seeds=seeds, epochs=epochs, launcher=launcher)
        )
        command = [sys.executable, "-m", "mixcore", "sweep", str(path), "--jobs", jobs, "--json"]
        began = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        return time.perf_counter() - began


@contextmanager
def cluster() -> Iterator[str]:
    """Two nodes of Ray on the loopback interface alone; gives the address."""
    os.environ.update(
        RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER="0", RAY_USAGE_STATS_ENABLED="0", RAY_ENABLE_UV_RUN_RUNTIME_ENV="0"
    )
    from ray._private import ray_constants
    from ray.cluster_utils import Cluster

    ray_constants.ENABLE_RAY_CLUSTER = False  # Ray then takes 127.0.0.1 for a machine's address
    node = {"num_cpus": 1, "node_ip_address": "127.0.0.1", "include_dashboard": False}
    made = Cluster(initialize_head=True, head_node_args=node)
    try:
        made.add_node(**node)
        yield str(made.address)
    finally:
        made.shutdown()


if __name__ == "__main__":
    main()
