"""Accuracy of learnt masks on a small real problem: vanilla, Mixup, CutMix, PuzzleMix, AutoMix and SAMix, one recipe.

    python benchmarks/ten_classes.py CIFAR100_FOLDER data/ten_classes
    python benchmarks/automix_accuracy.py [--config benchmarks/ten_classes.toml] [--epochs 20] [--seeds 3]

Every method trains from the same configuration with the same seeds, through the same command as any run; only [mix]
differs. Printed is the last epoch's top-1 of the trained network and of the predictor that the method suggests, mean
and standard deviation over the seeds. The learnt methods read stage 2, whose map is 4x4, and their momentum copy
follows within a short run (`momentum` 0.99 to 0.999). Run folders are kept, with the statistics of the masks.
"""

from __future__ import annotations

import argparse
import platform
import statistics
from collections.abc import Sequence
from pathlib import Path

import torch

from mixcore.logs.jsonl import read_records
from mixcore.run.folder import RunFolder
from mixcore.run.resolve import load_config
from mixcore.run.run import run

SHORT = ("mix.stage=2", "mix.momentum=0.99", "mix.momentum_end=0.999")
METHODS: dict[str, Sequence[str]] = {
    "vanilla": ("mix.name=none",),
    "mixup": ("mix.name=mixup", "mix.alpha=1.0"),
    "cutmix": ("mix.name=cutmix", "mix.alpha=1.0"),
    "puzzlemix": ("mix.name=puzzlemix",),
    "automix": ("mix.name=automix", "mix.lam_concat=true", *SHORT),
    "samix": ("mix.name=samix", "mix.lam_mul_k=0.25", "mix.dropout=0.0", *SHORT),
}


def train(config: Path, overrides: Sequence[str], folder: Path) -> tuple[float, float]:
    """Top-1 in percent after the last epoch: of the trained network, and of the predictor that counts."""
    run(load_config(config, [*overrides, f"run.dir={folder}"]), RunFolder(folder))
    last = read_records(folder / "metrics.jsonl")[-1]
    return last["val/top1/model"], last["val/top1"]


def spread(values: Sequence[float]) -> str:
    """Mean and standard deviation."""
    deviation = statistics.stdev(values) if len(values) > 1 else float("nan")
    return f"{statistics.mean(values):7.2f} ± {deviation:4.2f}"


def main() -> None:
    """Train everything and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, default=Path(__file__).with_name("ten_classes.toml"))
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--methods", nargs="+", choices=tuple(METHODS), default=tuple(METHODS))
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--out", type=Path, default=Path("runs/automix_accuracy"))
    given = parser.parse_args()
    where = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.processor() or platform.machine()
    print(f"{where}, torch {torch.__version__}, {given.config}, {given.epochs} epochs, {given.seeds} seeds")
    print(f"{'':12}{'network':>16}{'suggested':>18}")
    for method in given.methods:
        found = [
            train(
                given.config,
                [*METHODS[method], f"schedule.epochs={given.epochs}", f"seed={seed}", *given.overrides],
                given.out / f"{method}-{seed}",
            )
            for seed in range(given.seeds)
        ]
        networks, suggested = zip(*found, strict=True)
        print(f"{method:<12}{spread(networks):>16}{spread(suggested):>18}", flush=True)


if __name__ == "__main__":
    main()
