"""Time per step of mixcore's loop against the shortest hand-written PyTorch loop that does the same work.

cifar_resnet18, batch 100, CIFAR-100 shapes, Mixup, SGD: the two take turns in one process on the same batches, so that
what else the machine does falls on both; the figure is the median of the ratios of neighbours.

    python benchmarks/loop.py --pairs 20
"""

from __future__ import annotations

import argparse
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mixcore.discovery.manager import build_plugins
from mixcore.logs.progress import Progress
from mixcore.run.place import find_place
from mixcore.run.processes import joined
from mixcore.run.resolve import load_config
from mixcore.run.session import build_session
from mixcore.train.loop import Loop
from mixcore.types import Batch

CONFIG = """
[data]
name = "fake"
size = 32
num_classes = 100
train_images = 1000
validation_images = 100
batch_size = {batch}
[backbone]
name = "{backbone}"
[mix]
name = "mixup"
alpha = 1.0
[optimizer]
name = "sgd"
lr = 0.1
[schedule]
epochs = 1000
"""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="cifar_resnet18")
    parser.add_argument("--batch", type=int, default=100)
    parser.add_argument("--pairs", type=int, default=20)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    device = torch.device(arguments.device)
    ours, model = mixcore_step(arguments.backbone, arguments.batch, arguments.device)
    theirs = handwritten_step(model)
    images = torch.randn(arguments.batch, 3, 32, 32, device=device)
    labels = torch.randint(0, 100, (arguments.batch,), device=device)
    pairs = [timed_pair(theirs, ours, images, labels, turn) for turn in range(arguments.pairs + 2)][2:]
    ratio = statistics.median(ours / theirs for theirs, ours in pairs)
    hand, core = (statistics.median(times) for times in zip(*pairs, strict=True))
    name = torch.cuda.get_device_name() if device.type == "cuda" else platform.processor() or platform.machine()
    print(f"{name}, {arguments.threads} threads, torch {torch.__version__}, fp32, {arguments.backbone}")
    print(f"batch {arguments.batch}, {arguments.pairs} pairs")
    print(f"hand-written {hand * 1e3:8.2f} ms per step")
    print(f"mixcore      {core * 1e3:8.2f} ms per step")
    print(f"ratio        {ratio:8.3f} (median of pairs)")


def timed_pair(
    theirs: Callable[[Tensor, Tensor], None],
    ours: Callable[[Tensor, Tensor], None],
    images: Tensor,
    labels: Tensor,
    turn: int,
) -> tuple[float, float]:
    """Seconds of one step of each; who goes first changes from turn to turn."""
    if turn % 2:
        return timed(theirs, images, labels), timed(ours, images, labels)
    second = timed(ours, images, labels)
    return timed(theirs, images, labels), second


def timed(step: Callable[[Tensor, Tensor], None], images: Tensor, labels: Tensor) -> float:
    """Seconds of one step on a copy of the batch: either side may write into what it is given."""
    images = images.clone()
    if images.is_cuda:
        torch.cuda.synchronize()
    began = time.perf_counter()
    step(images, labels)
    if images.is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - began


def handwritten_step(model: nn.Module) -> Callable[[Tensor, Tensor], None]:
    """What one writes without a framework."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)

    def step(images: Tensor, labels: Tensor) -> None:
        lam = np.random.beta(1.0, 1.0)
        index = torch.randperm(images.shape[0], device=images.device)
        output = model(lam * images + (1 - lam) * images[index])
        loss = lam * F.cross_entropy(output, labels) + (1 - lam) * F.cross_entropy(output, labels[index])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def mixcore_step(backbone: str, batch: int, device: str) -> tuple[Callable[[Tensor, Tensor], None], nn.Module]:
    """An iteration of the core's own loop, and another network of the same kind for the other side."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "loop.toml"
        path.write_text(CONFIG.format(batch=batch, backbone=backbone))
        loaded = load_config(path, [f"run.device={device}"])
    plugins = build_plugins(loaded.config)
    with joined(loaded.config.run, find_place({})) as processes:
        session = build_session(loaded.config, plugins, processes)
        other = build_session(loaded.config, build_plugins(loaded.config), processes).state.step.model
        loop = Loop(
            state=session.state,
            module=session.module,
            schedule=session.schedule,
            loader=session.loader,
            config=loaded.config.train,
            seed=0,
            processes=processes,
            progress=Progress(1000),
            wanted_stop=lambda: 0,
            save=lambda: None,
        )

    loop.progress.start_epoch(0, len(session.loader))

    def step(images: Tensor, labels: Tensor) -> None:
        loop.iterate(0, Batch(images=images, labels=labels))

    return step, other


if __name__ == "__main__":
    main()
