"""Where a training step of AutoMix spends its time beside a vanilla one: kinds of operations, and new memory.

    python benchmarks/automix_parts.py [--backbone resnet50] [--image-size 224] [--batch 8] [--rounds 2]

One thread, forward and backward. First the CPU time of each kind of step, the part of it that the system took, and the
pages that it had to give (4 KiB each, filled with zeros at first touch). Then the time by groups of operations, from
torch's profiler, and how many times vanilla's it is. `MALLOC_TRIM_THRESHOLD_` and `MALLOC_TOP_PAD_` in the environment
tell how much of it is memory that the allocator gives back between steps.
"""

from __future__ import annotations

import argparse
import resource
import statistics
from collections import Counter
from contextlib import nullcontext

import torch
from automix import CLASSES, Contender, contender, kinds
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

TITLES = ("vanilla", "clean + mixup", "automix")
GROUPS = {
    "convolutions": ("conv",),
    "norms": ("norm",),
    "matrix products": ("mm", "addmv", "linear"),
    "copies and fills": ("copy", "fill", "zero", "cat", "index"),
}
"""By parts of the names of operations; the first group that fits."""


def spent(one: Contender, images: Tensor, labels: Tensor) -> tuple[float, float, int]:
    """Seconds of user and of system time, and pages, of one forward and backward."""
    before = resource.getrusage(resource.RUSAGE_SELF)
    one.forward_backward(images, labels, nullcontext())
    after = resource.getrusage(resource.RUSAGE_SELF)
    return after.ru_utime - before.ru_utime, after.ru_stime - before.ru_stime, after.ru_minflt - before.ru_minflt


def by_group(one: Contender, images: Tensor, labels: Tensor) -> Counter[str]:
    """Seconds of each group of operations, without what they call."""
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        one.forward_backward(images, labels, nullcontext())
    found: Counter[str] = Counter()
    for event in profiler.key_averages():
        fitting = (group for group, parts in GROUPS.items() if any(part in event.key for part in parts))
        found[next(fitting, "the rest")] += event.self_cpu_time_total / 1e6
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="resnet50")
    parser.add_argument("--stage", type=int, default=3)
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=2)
    arguments = parser.parse_args()
    arguments.device, arguments.channels_last, arguments.compile = torch.device("cpu"), False, False
    torch.set_num_threads(1)
    size = arguments.image_size
    images, labels = torch.randn(arguments.batch, 3, size, size), torch.randint(CLASSES, (arguments.batch,))
    offered = kinds(arguments.stage)
    field = {title: contender(arguments.backbone, offered[title], size, arguments) for title in TITLES}
    times: dict[str, list[tuple[float, float, int]]] = {title: [] for title in TITLES}
    for turn in range(arguments.rounds + 1):
        for title, one in field.items():
            found = spent(one, images, labels)
            if turn:  # the first round warms up
                times[title].append(found)
    print(f"{arguments.backbone}, {size} px, batch {arguments.batch}; torch {torch.__version__}, one thread")
    for title, rounds in times.items():
        user, system, pages = (statistics.median(column) for column in zip(*rounds, strict=True))
        ratio = statistics.median(sum(a[:2]) / sum(b[:2]) for a, b in zip(rounds, times["vanilla"], strict=True))
        print(f"{title:14} user {user:7.2f} s   system {system:6.2f} s   pages {pages:9.0f}   of vanilla {ratio:5.2f}")
    groups = {title: by_group(one, images, labels) for title, one in field.items()}
    for group in (*GROUPS, "the rest"):
        told = "   ".join(f"{title} {groups[title][group]:7.2f} s" for title in TITLES)
        print(f"{group:17} {told}   of vanilla {groups['automix'][group] / groups['vanilla'][group]:5.2f}")


if __name__ == "__main__":
    main()
