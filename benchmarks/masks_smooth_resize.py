"""SmoothMix and ResizeMix, targets included, against plain restatements of the way their peers go.

Both sides run in turn in one process, on one batch, who goes first alternating. A ratio is that of two neighbours'
times, and its median is told: below 1 mixcore is faster. The peers share one mask over the batch, so that one
restatement stands against the mode per batch (wanted: at most 1) and per sample (wanted: at most 2). Both give new
images. Ours is `create_mixer(...)` called on the batch, then `mix.targets(labels).dense(K)`.

    python benchmarks/masks_smooth_resize.py [--device cpu|cuda] [--threads 1] [--pairs 300] \\
        [--shapes cifar imagenet] [--methods resizemix]
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

import mixcore

SHAPES = {"cifar": (100, 32, 100), "imagenet": (32, 224, 1000)}
"""Batch, image side, classes."""
Side = Callable[[Tensor, Tensor], object]


def ours(name: str, classes: int, **options: object) -> Side:
    """mixcore's mixer, ending in dense targets."""
    mixer = mixcore.create_mixer(name, num_classes=classes, **options)
    return lambda images, labels: mixer(images, labels).targets(labels).dense(classes)


def dense(labels: Tensor, order: Tensor, lam: float, classes: int) -> Tensor:
    """The peers' target rows: two one-hot rows by their shares."""
    rows = F.one_hot(labels, classes).float()
    return lam * rows + (1 - lam) * rows[order]


def plain_smoothmix(images: Tensor, labels: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """One bump: coordinates of twice the image's size, rolled to its place, the middle cut out, then the exponent."""
    size = images.shape[-1]
    order = torch.randperm(images.shape[0], device=images.device)
    down, right = (int(np.random.randint(-size // 2, size // 2)) for _ in range(2))
    sigma = float((np.random.rand() / 4 + 0.25) * size)
    line = torch.arange(2 * size, dtype=torch.float32, device=images.device)
    grid = torch.stack(torch.meshgrid(line, line, indexing="ij"), -1).roll((down, right), (0, 1))
    grid = grid[size // 2 : size // 2 + size, size // 2 : size // 2 + size]
    bump = torch.exp(-((grid - (2 * size - 1) / 2) ** 2).sum(-1) / (2 * sigma**2))
    mixed = images * (1 - bump) + images[order] * bump
    return mixed, dense(labels, order, 1 - float(bump.sum()) / size**2, classes)


def plain_resizemix(images: Tensor, labels: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """One box clipped by the image, the whole batch resized to it and pasted into a copy."""
    height, width = images.shape[-2:]
    order = torch.randperm(images.shape[0], device=images.device)
    scale = float(np.random.uniform(0.1, 0.8))
    centre, half = (np.random.randint(height), np.random.randint(width)), (int(height * scale), int(width * scale))
    top, bottom = (int(np.clip(centre[0] + sign * (half[0] // 2), 0, height)) for sign in (-1, 1))
    left, right = (int(np.clip(centre[1] + sign * (half[1] // 2), 0, width)) for sign in (-1, 1))
    resized = F.interpolate(images, (bottom - top, right - left), mode="nearest")
    mixed = images.clone()
    mixed[:, :, top:bottom, left:right] = resized[order]
    return mixed, dense(labels, order, 1 - (bottom - top) * (right - left) / (height * width), classes)


METHODS: Sequence[tuple[str, str, Mapping[str, Any], Callable[[Tensor, Tensor, int], object]]] = (
    ("smoothmix", "per batch", {}, plain_smoothmix),
    ("smoothmix", "per sample", {"per_sample": True}, plain_smoothmix),
    ("resizemix", "per batch", {"box": "clip", "per_sample_pos": False}, plain_resizemix),
    ("resizemix", "per sample places", {}, plain_resizemix),
    ("resizemix", "per sample", {"per_sample": True}, plain_resizemix),
)
"""Name, mode, our options, the peers' way."""


def milliseconds(side: Side, images: Tensor, labels: Tensor) -> float:
    """Time of one call, the device's work included; one thread is timed by the CPU time that it took.

    So what else runs on the machine is not counted, but for the caches that it shares.
    """
    clock = time.thread_time if torch.get_num_threads() == 1 and not images.is_cuda else time.perf_counter
    if images.is_cuda:
        torch.cuda.synchronize()
    start = clock()
    side(images, labels)
    if images.is_cuda:
        torch.cuda.synchronize()
    return 1000 * (clock() - start)


def compare(first: Side, second: Side, images: Tensor, labels: Tensor, pairs: int) -> tuple[float, float, float]:
    """Median milliseconds of each side, and the median of the ratios of neighbours."""
    times: tuple[list[float], list[float]] = ([], [])
    for pair in range(pairs + 5):
        for side in (0, 1) if pair % 2 else (1, 0):
            found = milliseconds((first, second)[side], images, labels)
            if pair >= 5:  # the first pairs warm up
                times[side].append(found)
    ratios = [own / other for own, other in zip(*times, strict=True)]
    return statistics.median(times[0]), statistics.median(times[1]), statistics.median(ratios)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--pairs", type=int, default=300)
    parser.add_argument("--methods", nargs="+", choices=sorted({name for name, *_ in METHODS}))
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=list(SHAPES))
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    np.random.seed(0)
    torch.manual_seed(0)
    device = torch.device(arguments.device)
    where = torch.cuda.get_device_name() if device.type == "cuda" else f"CPU, {arguments.threads} thread(s)"
    print(f"{where}; {platform.machine()}; torch {torch.__version__}; {arguments.pairs} pairs")
    for shape in arguments.shapes:
        batch, side, classes = SHAPES[shape]
        images = torch.randn(batch, 3, side, side, device=device)
        labels = torch.randint(classes, (batch,), device=device)
        for name, mode, options, plain in METHODS:
            if arguments.methods and name not in arguments.methods:
                continue
            peer = lambda images, labels, plain=plain, classes=classes: plain(images, labels, classes)  # noqa: E731
            own, other, ratio = compare(ours(name, classes, **options), peer, images, labels, arguments.pairs)
            print(f"{shape:9} {name:10} {mode:18} mixcore {own:8.3f} ms   peers {other:8.3f} ms   ratio {ratio:5.2f}")


if __name__ == "__main__":
    main()
