"""Whether two versions of mixcore train to the same numbers, bit for bit: the proof of a change that must change none.

Each configuration is trained by either interpreter, with as many threads, and the records of all epochs and every
tensor of the last checkpoint's network and parts are compared. OLD and NEW are the interpreters of two environments.

    python benchmarks/same_numbers.py OLD/bin/python NEW/bin/python --epochs 2
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = [ROOT / "configs/quickstart.toml", *sorted((ROOT / "configs/digits").glob("*.toml"))]


def main() -> int:
    """Train, compare, print a line per configuration; 1 if one differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("old")
    parser.add_argument("new")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--config", type=Path, action="append", help="By default the quickstart and configs/digits.")
    arguments = parser.parse_args()
    same = True
    for config in arguments.config or CONFIGS:
        with tempfile.TemporaryDirectory() as folder:
            runs = [Path(folder, side) for side in ("old", "new")]
            for python, run in zip((arguments.old, arguments.new), runs, strict=True):
                train(os.path.abspath(python), config, run, arguments.epochs)
            differences = compare(*runs)
        same = same and not differences
        verdict = f"DIFFERS: {', '.join(differences[:5])}" if differences else "equal"
        print(f"{config.stem:14} {verdict}", flush=True)
    return 0 if same else 1


def train(python: str, config: Path, run: Path, epochs: int) -> None:
    """One run, outside of any checkout, so that each interpreter imports its own mixcore."""
    settings = [f"run.dir={run}", f"schedule.epochs={epochs}"]
    command = [
        python,
        "-m",
        "mixcore",
        "run",
        str(config.resolve()),
        *(part for one in settings for part in ("--set", one)),
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run(command, cwd=run.parent, env=environment, check=True, stdout=subprocess.DEVNULL)


def compare(old: Path, new: Path) -> list[str]:
    """Names of the numbers and tensors that differ; a number that only the new one records is none of them."""
    records = [list(map(json.loads, Path(run, "metrics.jsonl").read_text().splitlines())) for run in (old, new)]
    states = [torch.load(run / "checkpoints/last.pt", weights_only=True)["step"] for run in (old, new)]
    different = [] if len(records[0]) == len(records[1]) else ["metrics.jsonl"]
    different += sorted(
        {
            f"metrics.jsonl: {key}"
            for ours, theirs in zip(*records, strict=False)
            for key in ours
            if theirs.get(key) != ours[key]
        }
    )
    different += sorted(states[0].keys() ^ states[1].keys())
    shared = states[0].keys() & states[1].keys()
    return different + sorted(name for name in shared if not torch.equal(states[0][name], states[1][name]))


if __name__ == "__main__":
    sys.exit(main())
