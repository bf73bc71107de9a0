"""How learnt masks behave over training: a plot of what runs of AutoMix and SAMix noted.

    python benchmarks/automix_masks.py OUT.png runs/automix_accuracy/automix-0 runs/automix_accuracy/samix-0

From the run folders: per epoch the distance of a mask's mean from lam, and the share of pixels within 0.1 of 0 or 1;
with the weights of best.pt, the mean of 64 masks against lam. Needs matplotlib.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import attrs
import matplotlib.pyplot as plt
import torch

from mixcore.discovery.manager import build_plugins
from mixcore.logs.jsonl import read_records
from mixcore.run.checkpoint import read_checkpoint
from mixcore.run.place import Place
from mixcore.run.processes import joined
from mixcore.run.resolve import load_config
from mixcore.run.session import build_session

IMAGES = 64
LAMS = [round(0.05 * step, 2) for step in range(1, 20)]


def over_epochs(folder: Path, what: str) -> tuple[list[int], list[float]]:
    """Epochs and their mean of a number that the mixer reports."""
    found = [
        (record["epoch"], value)
        for record in read_records(folder / "metrics.jsonl")
        for key, value in record.items()
        if key.endswith(f"/{what}")
    ]
    epochs, values = zip(*found, strict=True)
    return list(epochs), list(values)


def mean_against_lam(folder: Path) -> list[float]:
    """Mean of the masks at each of LAMS, with the weights of best.pt."""
    config = load_config(folder / "config.toml").config
    with joined(attrs.evolve(config.run, device="cpu"), Place()) as processes:
        session = build_session(config, build_plugins(config), processes)
        session.state.step.load_saved_state(read_checkpoint(folder / "checkpoints" / "best.pt")["step"])
        batch = next(iter(session.loader.epoch(0))).rows(slice(IMAGES))
        mixes = next(iter(session.state.step.previews(batch, LAMS).values()))
    return [float(torch.as_tensor(mix.masks).mean()) for mix in mixes]


def main() -> None:
    """Draw the three panels."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("runs", type=Path, nargs="+")
    given = parser.parse_args()
    figure, (off, decided, against) = plt.subplots(1, 3, figsize=(11, 3.4), layout="constrained")
    for folder in given.runs:
        name = folder.name
        off.plot(*over_epochs(folder, "mask_off"), label=name)
        decided.plot(*over_epochs(folder, "mask_decided"), label=name)
        against.plot(LAMS, mean_against_lam(folder), label=name)
    against.plot([0, 1], [0, 1], color="grey", linewidth=0.8, linestyle=":")
    off.set(title="|mean of the mask - lam|", xlabel="epoch", ylim=(0, None))
    decided.set(title="share of pixels within 0.1 of 0 or 1", xlabel="epoch", ylim=(0, None))
    against.set(title="mean of the mask after training", xlabel="lam", ylim=(0, 1))
    against.legend(frameon=False)
    figure.savefig(given.out, dpi=110)


if __name__ == "__main__":
    main()
