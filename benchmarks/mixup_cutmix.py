"""Mixup and CutMix, targets included, against torchvision's v2 transforms and timm's Mixup.

Each comparison runs both sides in turn in one process, on one batch, and takes medians; a ratio below 1 says that
mixcore is faster. torchvision returns new images, and so does mixcore beside it; timm writes into the batch, and so
does mixcore beside it. Ours is `create_mixer(...)` called on the batch, then `mix.targets(labels).dense(K)`.

    python benchmarks/mixup_cutmix.py [--device cpu|cuda] [--threads 1] [--pairs 300] [--shapes cifar imagenet]
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time
from collections.abc import Callable, Iterator

import numpy as np
import timm
import torch
import torchvision
from timm.data.mixup import Mixup
from torch import Tensor
from torchvision.transforms import v2

import mixcore

SHAPES = {"cifar": (100, 32, 100), "imagenet": (32, 224, 1000)}
"""Batch, image side, classes."""
Side = Callable[[Tensor, Tensor], object]


def ours(name: str, classes: int, *, overwrite: bool, **options: object) -> Side:
    """mixcore's mixer, ending in dense targets."""
    mixer = mixcore.create_mixer(name, num_classes=classes, overwrite=overwrite, **options)
    return lambda images, labels: mixer(images, labels).targets(labels).dense(classes)


def timms(classes: int, mode: str, mixup_alpha: float, cutmix_alpha: float) -> Side:
    """timm's Mixup class without smoothing."""
    return Mixup(mixup_alpha, cutmix_alpha, mode=mode, label_smoothing=0.0, num_classes=classes)


def comparisons(classes: int) -> Iterator[tuple[str, str, Side, Side]]:
    """(what, peer, ours, theirs), every alpha 1."""
    for name, transform in (("mixup", v2.MixUp), ("cutmix", v2.CutMix)):
        peer = transform(alpha=1.0, num_classes=classes)
        yield name, "torchvision", ours(name, classes, overwrite=False), peer
    for mode in ("batch", "elem"):
        for name, alphas in (("mixup", (1.0, 0.0)), ("cutmix", (0.0, 1.0))):
            side = ours(name, classes, overwrite=True, per_sample=mode == "elem")
            yield name, f"timm, {mode}", side, timms(classes, mode, *alphas)
    for mode in ("batch", "elem", "pair"):
        side = ours("mixup_cutmix", classes, overwrite=True, mode=mode, mixup_alpha=1.0)
        yield "mixup_cutmix", f"timm, {mode}", side, timms(classes, mode, 1.0, 1.0)


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


def compare(first: Side, second: Side, images: Tensor, labels: Tensor, pairs: int) -> tuple[float, float]:
    """Median milliseconds of each side over interleaved pairs, who goes first alternating."""
    times: tuple[list[float], list[float]] = ([], [])
    for pair in range(pairs + 5):
        order = (0, 1) if pair % 2 else (1, 0)
        for side in order:
            found = milliseconds((first, second)[side], images, labels)
            if pair >= 5:  # the first pairs warm up
                times[side].append(found)
    return statistics.median(times[0]), statistics.median(times[1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--pairs", type=int, default=300)
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=list(SHAPES))
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    np.random.seed(0)
    torch.manual_seed(0)
    device = torch.device(arguments.device)
    where = torch.cuda.get_device_name() if device.type == "cuda" else f"CPU, {arguments.threads} thread(s)"
    versions = f"torch {torch.__version__}, torchvision {torchvision.__version__}, timm {timm.__version__}"
    print(f"{where}; {platform.machine()}; {versions}; medians of {arguments.pairs} pairs")
    for shape in arguments.shapes:
        batch, side, classes = SHAPES[shape]
        images = torch.randn(batch, 3, side, side, device=device)
        labels = torch.randint(classes, (batch,), device=device)
        for name, peer, mine, theirs in comparisons(classes):
            own, other = compare(mine, theirs, images, labels, arguments.pairs)
            print(f"{shape:9} {name:13} mixcore {own:8.3f} ms   {peer:12} {other:8.3f} ms   ratio {own / other:5.2f}")


if __name__ == "__main__":
    main()
