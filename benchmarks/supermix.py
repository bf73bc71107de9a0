"""SuperMix: how many passes of the teacher a batch costs, how many samples it finishes, and what not stopping costs.

    python benchmarks/supermix.py [--batches 5] [--batch 100] [--epochs 1 6] [--times 5] [--threads 1]

The images are the digits that ship with mixcore, the teacher a small network that is trained on them here. For each
number of sources it tells the share of finished samples after so many rounds, each going on until it is finished
(`max_unfinished = 0`); the rounds after which the published rule would stop (`max_unfinished = 0.7`); and the time of
all `max_iter` rounds beside that of the rounds until the rule would stop, in one process, by turns, as medians.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time

import torch
from mixcore_plugin_supermix import Supermixed, supermix
from torch import Tensor, nn
from torch.nn import functional as F

from mixcore.api import Resident, Task, dirichlet
from mixcore.testing import TinyConvNet
from mixcore_plugins_builtin.data.digits import Digits

ALPHA = 3.0
ROUNDS = (1, 2, 3, 5, 8, 10, 20, 50)
DEFAULT_ROUNDS, RULE = 5, 0.7


def normalised(split: Resident, task: Task) -> Tensor:
    """[n,C,H,W] float32."""
    mean, std = (torch.tensor(one).view(1, -1, 1, 1) for one in (task.mean, task.std))
    return (split.images.float() / 255 - mean) / std


def trained(images: Tensor, labels: Tensor, epochs: int) -> nn.Module:
    """A small frozen network that knows the images."""
    torch.manual_seed(0)
    teacher = TinyConvNet(10, in_channels=images.shape[1], width=24, stages=3)
    optimizer = torch.optim.AdamW(teacher.parameters(), lr=3e-3)
    for _ in range(epochs):
        for rows in torch.randperm(len(images)).split(64):
            optimizer.zero_grad()
            F.cross_entropy(teacher(images[rows]), labels[rows]).backward()
            optimizer.step()
    return teacher.requires_grad_(False).eval()


class Counted:
    """A teacher that counts the images it is shown, and those that it is shown for a gradient."""

    def __init__(self, teacher: nn.Module) -> None:
        self.teacher, self.forwards, self.backwards = teacher, 0, 0

    def __call__(self, images: Tensor) -> Tensor:
        logits: Tensor = self.teacher(images)
        self.forwards += len(images)
        self.backwards += len(images) if logits.requires_grad else 0
        return logits


def mixed(images: Tensor, teacher: object, k: int, seed: int, rounds: int, unfinished: float = 0.0) -> Supermixed:
    count = len(images)
    sources = (torch.arange(count)[:, None] + torch.arange(k)) % count
    shares = dirichlet(ALPHA, count, k, torch.Generator().manual_seed(seed)).float()
    return supermix(images, sources, shares, teacher, max_iter=rounds, max_unfinished=unfinished)


def rounds_of_the_rule(images: Tensor, teacher: nn.Module, k: int, seed: int) -> int:
    """Rounds until at most 70 % of the batch are unfinished; the cap where that does not come."""
    for rounds in range(1, ROUNDS[-1]):
        if (~mixed(images, teacher, k, seed, rounds).finished).float().mean() <= RULE:
            return rounds
    return ROUNDS[-1]


def seconds(images: Tensor, teacher: nn.Module, k: int, rounds: int) -> float:
    begun = time.process_time()
    mixed(images, teacher, k, 0, rounds, RULE)
    return time.process_time() - begun


def report(batches: list[Tensor], teacher: nn.Module, k: int, times: int) -> None:
    print(f"\nK = {k}")
    for rounds in ROUNDS:
        counted = Counted(teacher)
        found = [mixed(images, counted, k, seed, rounds).finished for seed, images in enumerate(batches)]
        share = torch.cat(found).float().mean().item()
        print(
            f"  {rounds:3d} rounds: {100 * share:5.1f} % finished, {counted.forwards // len(batches)} images forward "
            f"and {counted.backwards // len(batches)} back per batch of {len(batches[0])}"
        )
    ends = [rounds_of_the_rule(images, teacher, k, seed) for seed, images in enumerate(batches)]
    print(f"  the rule (at most {RULE:.0%} unfinished) ends after {ends} rounds")
    end = min(ends[0], DEFAULT_ROUNDS)
    pairs = [[seconds(batches[0], teacher, k, rounds) for rounds in (end, DEFAULT_ROUNDS)] for _ in range(times)]
    stopped, whole = (statistics.median(one) for one in zip(*pairs, strict=True))
    ratio = statistics.median(b / a for a, b in pairs)
    print(f"  {end} rounds {1000 * stopped:.0f} ms, all {DEFAULT_ROUNDS} {1000 * whole:.0f} ms: {ratio:.2f} times")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--batches", type=int, default=5)
    parser.add_argument("--batch", type=int, default=100)
    parser.add_argument("--epochs", type=int, nargs="+", default=[1, 6], help="of training; a teacher for each")
    parser.add_argument("--times", type=int, default=5, help="turns that are timed")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    print(f"torch {torch.__version__}, {platform.machine()}, {arguments.threads} thread(s)")
    data = Digits().build_data()
    assert isinstance(data.train, Resident)
    assert isinstance(data.validation, Resident)
    images, unseen = normalised(data.train, data.task), normalised(data.validation, data.task)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    batches = list(images[order].split(arguments.batch)[: arguments.batches])
    for epochs in arguments.epochs:
        teacher = trained(images, data.train.labels, epochs)
        right = (teacher(unseen).argmax(1) == data.validation.labels).float().mean().item()
        print(f"\nteacher of {epochs} epoch(s): {100 * right:.1f} % of unseen digits")
        for k in (2, 3):
            report(batches, teacher, k, arguments.times)


if __name__ == "__main__":
    main()
