"""Images per second of the device-resident loader against torchvision's DataLoader pipeline, same augmentation.

CIFAR-100's shape, batch 100, padding 4 (reflect), flip, normalisation; both in one process, one epoch's part of each in
turn, medians. Images are synthetic, or those of Parquet files: the speed does not depend on what they show.

    python benchmarks/data.py [--root FOLDER] [--device cpu|cuda] [--workers 0 2] [--images 10000] [--rounds 5]
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time
from collections.abc import Iterable

import torch
import torchvision
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from mixcore.data.loader import build_train_loader
from mixcore.types import Data
from mixcore_plugins_builtin.data.fake import Fake
from mixcore_plugins_builtin.data.options import CIFAR_MEAN, CIFAR_STD
from mixcore_plugins_builtin.data.parquet import Parquet

BATCH = 100
AUGMENTATION = {"crop_padding": 4, "padding_mode": "reflect", "flip": 0.5, "mean": CIFAR_MEAN, "std": CIFAR_STD}


class PilImages(Dataset[tuple[Tensor, int]]):
    """What torchvision's CIFAR classes do for each sample: array to PIL image, transforms, label."""

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        self.arrays, self.labels = images.permute(0, 2, 3, 1).numpy(), labels.tolist()
        self.transform = transforms.Compose(
            [
                transforms.ToPILImage(),
                transforms.RandomCrop(32, padding=4, padding_mode="reflect"),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
                transforms.Normalize(CIFAR_MEAN, CIFAR_STD),
            ]
        )

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(self.arrays[index]), self.labels[index]


def speed(batches: Iterable[tuple[Tensor, Tensor]], device: torch.device) -> float:
    """Images per second that arrive on the device."""
    start, count = time.perf_counter(), 0
    for images, labels in batches:
        images, labels = images.to(device, non_blocking=True), labels.to(device, non_blocking=True)
        count += len(images)
    if device.type == "cuda":
        torch.cuda.synchronize()
    return count / (time.perf_counter() - start)


def torchvision_loader(data: Data, workers: int, device: torch.device) -> DataLoader[tuple[Tensor, int]]:
    """The usual pipeline, its workers kept between epochs."""
    return DataLoader(
        PilImages(data.train.images, data.train.labels),
        batch_size=BATCH,
        shuffle=True,
        drop_last=True,
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=device.type == "cuda",
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", help="folder with train-*.parquet and test-*.parquet; without it: synthetic images")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 2], help="worker processes of the DataLoader")
    parser.add_argument("--images", type=int, default=10_000, help="synthetic training images")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    source = (
        Parquet(root=arguments.root, **AUGMENTATION)
        if arguments.root
        else Fake(num_classes=100, train_images=arguments.images, validation_images=100, **AUGMENTATION)
    )
    data = source.build_data()
    resident = build_train_loader(
        data, batch_size=BATCH, workers=0, drop_last=True, seed=0, rank=0, world=1, device=device, channels_last=False
    )
    theirs = {count: torchvision_loader(data, count, device) for count in arguments.workers}
    speeds: dict[str, list[float]] = {}
    for epoch in range(arguments.rounds + 1):  # the first round warms up
        for name, batches in (
            ("mixcore, resident", resident.epoch(epoch)),
            *((f"torchvision DataLoader, {count} workers", loader) for count, loader in theirs.items()),
        ):
            found = speed(batches, device)
            if epoch:
                speeds.setdefault(name, []).append(found)
    where = torch.cuda.get_device_name() if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    print(f"{where}; {platform.machine()}; torch {torch.__version__}, torchvision {torchvision.__version__}")
    print(f"{len(data.train)} training images 3x32x32, batch {BATCH}, {arguments.rounds} rounds, images per second")
    ours = statistics.median(speeds["mixcore, resident"])
    for name, values in speeds.items():
        median = statistics.median(values)
        print(
            f"{name:36} median {median:10,.0f}   from {min(values):10,.0f} to {max(values):10,.0f}"
            f"   mixcore is {ours / median:6.1f} times as fast"
        )


if __name__ == "__main__":
    main()
