"""Cost of TL-Align and MergeMix: FLOPs and CPU time of a training step of a vision transformer, relative to vanilla.

    python benchmarks/vit_steps.py [--backbone vit_tiny_patch16_224] [--image-size 224] [--batch 4] [--rounds 5]

One thread, forward and backward. All kinds take turns in one process on the same batch, who goes first moving on;
printed are medians of the ratios within a round. FLOPs are those that torch.utils.flop_counter sees, with attention as
matrix products, which it counts on every machine.
"""

from __future__ import annotations

import argparse
import statistics
import time
from contextlib import nullcontext
from typing import Any

import torch
from automix import CLASSES, Contender, contender, flops
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

CONDENSED = {"name": "merged_attention", "merge_num": 49, "layer": 11}
KINDS: dict[str, Any] = {
    "vanilla": "none",
    "mixup": "mixup",
    "tla": "tla",
    "mergemix": "mergemix",
    "mergemix, 49 merged, block 11": {"name": "mergemix", "saliency": CONDENSED},
    "mergemix, one forward": {"name": "mergemix", "switch_off": 0.0},
}
"""Title -> the [mix] of a step."""


def seconds(one: Contender, images: Tensor, labels: Tensor) -> float:
    """CPU time of one forward and backward."""
    began = time.process_time()
    one.forward_backward(images, labels, nullcontext())
    return time.process_time() - began


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="vit_tiny_patch16_224")
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    arguments.device, arguments.channels_last, arguments.compile = torch.device("cpu"), False, False
    torch.set_num_threads(1)
    size = arguments.image_size
    images, labels = torch.randn(arguments.batch, 3, size, size), torch.randint(CLASSES, (arguments.batch,))
    field = {title: contender(arguments.backbone, mix, size, arguments) for title, mix in KINDS.items()}
    with sdpa_kernel(SDPBackend.MATH):
        counted = {title: flops(one, images, labels) for title, one in field.items()}
    times: dict[str, list[float]] = {title: [] for title in KINDS}
    order = list(KINDS)
    for turn in range(arguments.rounds + 1):
        for title in order:
            found = seconds(field[title], images, labels)
            if turn:  # the first round warms up
                times[title].append(found)
        order = [*order[1:], *order[:1]]
    print(f"{arguments.backbone}, {size} px, batch {arguments.batch}; torch {torch.__version__}, one thread")
    for title, rounds in times.items():
        ratio = statistics.median(one / plain for one, plain in zip(rounds, times["vanilla"], strict=True))
        relative = counted[title] / counted["vanilla"]
        print(
            f"{title:33} {counted[title] / 1e9:8.1f} GFLOP   of vanilla {relative:5.2f}   "
            f"{statistics.median(rounds):6.2f} s   of vanilla {ratio:5.2f}"
        )


if __name__ == "__main__":
    main()
