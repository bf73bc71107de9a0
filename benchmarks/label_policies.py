"""What label policies cost: a whole training step with each, beside the step with the mixer's own weights.

    OMP_NUM_THREADS=1 python benchmarks/label_policies.py oacutmix sumix [--batch 32] [--rounds 7]

Processor time of forward and backward of ResNet-18 for CIFAR on a CutMix batch of 32-pixel images, a box per image, one
thread. Medians of alternating rounds in one process; an optimizer step is not counted.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch

import mixcore
from mixcore.data.stand_ins import stand_ins
from mixcore.types import Task
from mixcore_plugins_builtin.backbones.cifar import CifarResNet18

CLASSES, SIDE = 100, 32


def main() -> None:
    """Time a step with each policy in turns."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("policies", nargs="+")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    task = Task(num_classes=CLASSES, in_channels=3, image_size=(SIDE, SIDE), mean=(0.0,) * 3, std=(1.0,) * 3)
    settings = {"num_classes": CLASSES, "iterations": 1000, "image_size": (SIDE, SIDE)}
    steps = {
        name: mixcore.create_step(
            CifarResNet18().build_backbone(task), mix={"name": "cutmix", "per_sample": True}, labels=name, **settings
        )
        for name in ("weights", *arguments.policies)
    }
    images, labels = torch.randn(arguments.batch, 3, SIDE, SIDE), torch.randint(CLASSES, (arguments.batch,))
    times: dict[str, list[float]] = {name: [] for name in steps}
    for number in range(arguments.rounds + 1):
        for name, step in steps.items():
            beside = stand_ins(images, 0, step.maps)
            begun = time.process_time()
            step(images, labels, iteration=number, **beside)[0].backward()
            times[name].append(time.process_time() - begun)
    medians = {name: statistics.median(taken[1:]) for name, taken in times.items()}
    for name, taken in medians.items():
        print(f"{name:24} {1000 * taken:8.0f} ms  {taken / medians['weights']:.2f}")


if __name__ == "__main__":
    main()
