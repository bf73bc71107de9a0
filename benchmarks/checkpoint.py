"""What the checksum of a checkpoint costs, in milliseconds and as a share of writing and reading it.

cifar_resnet18 with the state of SGD (90 MB). The file is written with its checksum and without it in turn in one
process, so that what else the machine does falls on both; figures are medians.

    python benchmarks/checkpoint.py --pairs 15
"""

from __future__ import annotations

import argparse
import hashlib
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mixcore.discovery.catalogue import find, installed
from mixcore.discovery.load import load
from mixcore.files import replace_file
from mixcore.run.seal import read_sealed, write_sealed
from mixcore.types import Task


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="cifar_resnet18")
    parser.add_argument("--pairs", type=int, default=15)
    parser.add_argument("--folder", type=Path, help="where to write; by default the system's temporary folder")
    arguments = parser.parse_args()
    content = trained_state(arguments.backbone)
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        plain, sealed = Path(folder, "plain.pt"), Path(folder, "sealed.pt")
        ways: dict[str, Callable[[], object]] = {
            "write": lambda: replace_file(plain, lambda file: torch.save(content, file)),
            "write, with checksum": lambda: replace_file(sealed, lambda file: write_sealed(file, content)),
            "read": lambda: torch.load(plain, map_location="cpu", weights_only=True),
            "read, with checksum": lambda: read_sealed(sealed),
        }
        times = interleaved(ways, arguments.pairs)
        size = sealed.stat().st_size
        body = sealed.read_bytes()
        hashing = statistics.median(timed(lambda: hashlib.sha256(body)) for _ in range(arguments.pairs))
    print(f"torch {torch.__version__}, {platform.processor() or platform.machine()}, {arguments.backbone}")
    print(f"{size / 2**20:.1f} MiB, {arguments.pairs} pairs, medians; SHA-256 alone {1000 * hashing:.0f} ms")
    for name, values in times.items():
        print(f"{name:22} {1000 * statistics.median(values):7.0f} ms")
    for what in ("write", "read"):
        pairs = zip(times[what], times[f"{what}, with checksum"], strict=True)
        print(f"{what}: ratio with/without {statistics.median(new / old for old, new in pairs):.3f}")


def trained_state(backbone: str) -> dict[str, Any]:
    """Weights and momentum of a network as a run's checkpoint holds them."""
    task = Task(num_classes=100, in_channels=3, image_size=(32, 32), mean=(0.5,) * 3, std=(0.25,) * 3)
    model: nn.Module = load(find(backbone, installed()))().build_backbone(task)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    optimizer.step()
    return {"step": model.state_dict(), "optimizer": optimizer.state_dict()}


def interleaved(ways: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Seconds that each way takes, the ways in turn."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            times[name].append(timed(way))
    return times


def timed(way: Callable[[], object]) -> float:
    """Seconds that one call takes."""
    began = time.perf_counter()
    way()
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
