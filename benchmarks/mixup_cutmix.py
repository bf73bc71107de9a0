"""Time of Mixup and CutMix, targets included, beside torchvision's transforms and timm's Mixup.

    python benchmarks/mixup_cutmix.py [--threads 1] [--repeats 200] [--seed 0] [--device cpu]

Both sides run in one process, call by call in turn, on the same kind of batch; printed are medians and the ratio of
medians. Beside timm both sides write into the batch, beside torchvision neither does.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time
from collections.abc import Callable

import numpy as np
import timm
import timm.data
import torch
import torchvision
from torch import Tensor
from torchvision.transforms import v2

from mixcore import create_mixer

Call = Callable[[Tensor, Tensor], object]
CLASSES = 100
SHAPES = ((100, 3, 32, 32), (32, 3, 224, 224))


def ours(name: str, overwrite: bool, **options: object) -> Call:
    """Our mixer by name, ending in dense targets."""
    mixer = create_mixer(name, num_classes=CLASSES, overwrite=overwrite, **options)

    def call(images: Tensor, labels: Tensor) -> object:
        mix = mixer(images, labels)
        return mix.images, mix.targets(labels).dense(CLASSES)

    return call


def of_timm(mixup: float, cutmix: float, mode: str) -> Call:
    """timm's mixer, without smoothing."""
    return timm.data.Mixup(mixup_alpha=mixup, cutmix_alpha=cutmix, mode=mode, label_smoothing=0.0, num_classes=CLASSES)


def pairs() -> dict[str, tuple[Call, Call]]:
    """(ours, the peer's) by title."""
    return {
        "mixup, timm batch": (ours("mixup", True), of_timm(1.0, 0.0, "batch")),
        "mixup, timm elem": (ours("mixup", True, per_sample=True), of_timm(1.0, 0.0, "elem")),
        "mixup, torchvision": (ours("mixup", False), v2.MixUp(num_classes=CLASSES)),
        "cutmix, timm batch": (ours("cutmix", True), of_timm(0.0, 1.0, "batch")),
        "cutmix, timm elem": (ours("cutmix", True, per_sample=True), of_timm(0.0, 1.0, "elem")),
        "cutmix, torchvision": (ours("cutmix", False), v2.CutMix(num_classes=CLASSES)),
    }


def medians(calls: tuple[Call, Call], shape: tuple[int, ...], repeats: int, device: torch.device) -> list[float]:
    """Median microseconds of each call, made in turn."""
    images = torch.randn(shape, device=device)
    labels = torch.randint(CLASSES, shape[:1], device=device)
    times: tuple[list[float], list[float]] = ([], [])
    for repeat in range(repeats + 10):
        for call, record in zip(calls, times, strict=True):
            start = time.perf_counter()
            call(images, labels)
            if device.type == "cuda":
                torch.cuda.synchronize()
            if repeat >= 10:
                record.append(time.perf_counter() - start)
    return [1e6 * statistics.median(record) for record in times]


def main() -> None:
    """Measure every pair on every shape and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    torch.manual_seed(given.seed)
    np.random.seed(given.seed)  # timm draws from it
    where = torch.cuda.get_device_name(given.device) if given.device.type == "cuda" else platform.processor()
    print(f"torch {torch.__version__}, torchvision {torchvision.__version__}, timm {timm.__version__}; {where}")
    print(f"{given.threads} thread(s), {given.repeats} repeats, seed {given.seed}; microseconds per batch")
    for shape in SHAPES:
        for title, calls in pairs().items():
            own, peer = medians(calls, shape, given.repeats, given.device)
            print(f"{'x'.join(map(str, shape)):>14}  {title:<20} {own:9.0f} {peer:9.0f}   ratio {own / peer:.2f}")


if __name__ == "__main__":
    main()
