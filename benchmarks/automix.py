"""Cost of AutoMix and its kin: time, FLOPs and memory of a training step, relative to vanilla and to clean + Mixup.

    python benchmarks/automix.py [--backbone cifar_resnet18] [--batch 32] [--rounds 10] [--threads 1] [--only adautomix]

All kinds take turns in one process on the same batch, so that what else the machine does falls on all; printed are
medians, and medians of the ratios within a round; on one CPU thread of the process's CPU time, which other programs
hardly change. A step is forward and backward; what follows (optimizer step, and for the methods the momentum update) is
timed beside it. "clean + mixup" is the honest lower rung: the same network on the clean and on a mixed batch. FLOPs are
those that torch.utils.flop_counter sees.
"""

from __future__ import annotations

import argparse
import gc
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import attrs
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

import mixcore
from mixcore.api import Mix, Task, beta, blend, draw_partners, hookimpl, send
from mixcore.config.tables import config_from_tree
from mixcore.discovery.manager import build_plugins
from mixcore.measure.cost import cpu_time
from mixcore.measure.memory import peak_bytes
from mixcore.step.step import TrainingStep

CLASSES = 100
RUNGS = ("vanilla", "clean + mixup")
"""What every kind is compared with."""


@attrs.define(eq=False, kw_only=True)
class CleanAndMixup:
    """The clean batch and a Mixup of it: two forwards."""

    role = "mix"

    @hookimpl
    def generate_mix(self, images: Tensor, rng: torch.Generator) -> Mix:
        """One ratio, one permutation."""
        lam = beta(1.0, rng)
        partner = send(draw_partners("permutation", images.shape[0], rng), images.device)
        return Mix.pair(blend(images, partner, lam), partner, lam, views=(Mix.clean(images),))


def kinds(stage: int | str) -> dict[str, Any]:
    """Title -> the [mix] of a step."""
    automix, samix = {"name": "automix", "stage": stage}, {"name": "samix", "stage": stage, "dropout": 0.0}
    return {
        "vanilla": "none",
        "clean + mixup": CleanAndMixup(),
        "automix": automix,
        "automix, no one-hot pass": {**automix, "clean_weight": 0.0},
        "samix": samix,
        "adautomix": {"name": "adautomix", "stage": stage},
        "adautomix, two images": {"name": "adautomix", "stage": stage, "mix_samples": 2},
    }


@attrs.define(eq=False)
class Contender:
    """A step that is trained, and what was measured of it."""

    step: TrainingStep
    optimizer: torch.optim.Optimizer
    seconds: list[float] = attrs.field(factory=list)
    after: list[float] = attrs.field(factory=list)

    def forward_backward(self, images: Tensor, labels: Tensor, precision: AbstractContextManager[Any]) -> None:
        """One iteration."""
        self.optimizer.zero_grad()
        with precision:
            loss, _ = self.step(images, labels)
        loss.backward()

    def finish(self) -> None:
        """Optimizer step and what follows it."""
        self.optimizer.step()
        self.step.after_step()


def contender(backbone: str, mix: Any, image_size: int, arguments: argparse.Namespace) -> Contender:
    """A fresh step on a fresh network."""
    torch.manual_seed(0)
    tree: Mapping[str, Any] = {"data": {"name": "fake"}, "backbone": {"name": backbone}}
    task = Task(
        num_classes=CLASSES, in_channels=3, image_size=(image_size, image_size), mean=(0.0,) * 3, std=(1.0,) * 3
    )
    plugins = build_plugins(config_from_tree(tree))
    assert plugins.backbone is not None
    model = plugins.backbone.build_backbone(task=task).to(arguments.device)
    if arguments.channels_last:
        model = model.to(memory_format=torch.channels_last)
    step = mixcore.create_step(
        model,
        mix=mix,
        num_classes=CLASSES,
        iterations=1000,
        image_size=(image_size, image_size),
        compile=arguments.compile,
    )
    return Contender(step, torch.optim.SGD(step.param_groups(lr=0.1, weight_decay=1e-4, momentum=0.9), lr=0.1))


def clock(call: Callable[[], None], device: torch.device) -> float:
    """Seconds of one call, device included."""
    now = time.process_time if cpu_time(device) else time.perf_counter
    if device.type == "cuda":
        torch.cuda.synchronize()
    began = now()
    call()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return now() - began


def flops(one: Contender, images: Tensor, labels: Tensor) -> float:
    """FLOPs of a forward and backward."""
    with FlopCounterMode(display=False) as counter:
        one.forward_backward(images, labels, nullcontext())
    return float(counter.get_total_flops())


def peak(one: Contender, images: Tensor, labels: Tensor, precision: AbstractContextManager[Any]) -> float:
    """MiB that a step allocates at its peak beyond what all contenders hold."""
    one.optimizer.zero_grad()
    gc.collect()
    return peak_bytes(lambda: one.forward_backward(images, labels, precision), images.device) / 2**20


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="cifar_resnet18", help='a small one: "resnet10t"')
    parser.add_argument("--stage", type=int, default=3)
    parser.add_argument("--image-size", type=int, default=32)
    parser.add_argument("--batch", type=int, nargs="+", default=[32, 100])
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--channels-last", action="store_true")
    parser.add_argument(
        "--only", nargs="+", default=[""], metavar="PART", help="kinds whose title has it, and the rungs"
    )
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    on_cuda = arguments.device.type == "cuda"
    where = torch.cuda.get_device_name() if on_cuda else platform.processor() or platform.machine()
    settings = [name for name in ("bf16", "compile", "channels_last") if getattr(arguments, name)] or ["fp32"]
    print(f"{where}, {arguments.threads} threads, torch {torch.__version__}, {', '.join(settings)}")
    for batch in arguments.batch:
        measure(arguments, batch)


def measure(arguments: argparse.Namespace, batch: int) -> None:
    """One table."""
    device, size = arguments.device, arguments.image_size
    images = torch.randn(batch, 3, size, size, device=device)
    if arguments.channels_last:
        images = images.to(memory_format=torch.channels_last)
    labels = torch.randint(CLASSES, (batch,), device=device)

    def precision() -> AbstractContextManager[Any]:
        return torch.autocast(device.type, dtype=torch.bfloat16) if arguments.bf16 else nullcontext()

    field = {
        title: contender(arguments.backbone, mix, size, arguments)
        for title, mix in kinds(arguments.stage).items()
        if title in RUNGS or any(part in title for part in arguments.only)
    }
    counted = {} if arguments.compile else {title: flops(one, images, labels) for title, one in field.items()}
    for turn in range(arguments.rounds + 2):
        for one in field.values():
            context = precision()
            spent = clock(lambda: one.forward_backward(images, labels, context), device)  # noqa: B023 - called at once
            after = clock(one.finish, device)
            if turn >= 2:
                one.seconds.append(spent)
                one.after.append(after)
    memory = {title: peak(one, images, labels, precision()) for title, one in field.items()}
    print(f"\n{arguments.backbone}, {size} px, batch {batch}, {arguments.rounds} rounds")
    print(f"{'':26}{'ms':>9}{'vanilla':>9}{'two':>7}{'FLOPs':>8}{'after, ms':>11}{'MiB':>9}{'memory':>8}")
    for title, one in field.items():
        ratios = [
            statistics.median(a / b for a, b in zip(one.seconds, field[other].seconds, strict=True)) for other in RUNGS
        ]
        line = f"{title:<26}{1e3 * statistics.median(one.seconds):9.1f}{ratios[0]:9.2f}{ratios[1]:7.2f}"
        line += f"{counted[title] / counted['vanilla']:8.2f}" if counted else " " * 8
        line += f"{1e3 * statistics.median(one.after):11.1f}"
        line += f"{memory[title]:9.0f}{memory[title] / memory['vanilla']:8.2f}"
        print(line)


if __name__ == "__main__":
    main()
