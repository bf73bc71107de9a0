"""The smallest plugins that a run can be made of, with faults that a test can order."""

from __future__ import annotations

import math
import os
import signal
import sys
import time
from typing import Any

import attrs
import torch
from torch import Tensor, nn

from mixcore.api import Data, Mix, Resident, Task, hookimpl


@attrs.define(eq=False, kw_only=True)
class ToyData:
    """Random images [n,3,8,8] whose mean brightness is the class."""

    role = "data"

    samples: int = 26
    """Training images."""
    validation: int = 13
    """Validation images."""

    @hookimpl
    def build_data(self) -> Data:
        generator = torch.Generator().manual_seed(7)

        def images(count: int) -> Resident:
            labels = torch.arange(count) % 3
            noise = torch.randint(0, 86, (count, 3, 8, 8), generator=generator)
            return Resident(images=(noise + 80 * labels.view(-1, 1, 1, 1)).to(torch.uint8), labels=labels)

        task = Task(num_classes=3, in_channels=3, image_size=(8, 8), mean=(0.5,) * 3, std=(0.3,) * 3)
        return Data(train=images(self.samples), validation=images(self.validation), task=task)


class Net(nn.Module):
    """A convolution, BatchNorm (if `norm`) and dropout, with what a backbone offers."""

    num_features = 8
    feature_info = ({"module": "act", "num_chs": 8, "reduction": 1},)

    def __init__(self, classes: int, dropout: float, norm: bool, norm_momentum: float) -> None:
        super().__init__()
        self.conv, self.act = nn.Conv2d(3, 8, 3, padding=1), nn.ReLU()
        self.norm = nn.BatchNorm2d(8, momentum=norm_momentum) if norm else nn.Identity()
        self.drop, self.fc = nn.Dropout(dropout), nn.Linear(8, classes)

    def forward_features(self, images: Tensor) -> Tensor:
        return self.act(self.norm(self.conv(images)))

    def forward_head(self, features: Tensor, pre_logits: bool = False) -> Tensor:
        pooled = self.drop(features.mean((2, 3)))
        return pooled if pre_logits else self.fc(pooled)

    def get_classifier(self) -> nn.Module:
        return self.fc

    def forward(self, images: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(images))


@attrs.define(eq=False, kw_only=True)
class ToyNet:
    """The network above."""

    role = "backbone"

    dropout: float = 0.2
    """Share of pooled features dropped in training, from the global generator."""
    norm: bool = True
    """Whether there is BatchNorm."""
    norm_momentum: float = 0.1
    """How fast its statistics follow the batches; 0: not at all."""

    @hookimpl
    def build_backbone(self, task: Task) -> nn.Module:
        return Net(task.num_classes, self.dropout, self.norm, self.norm_momentum)


@attrs.define(eq=False, kw_only=True)
class ToyMix:
    """One lam per batch, the partner shifted by one; a part counts the optimizer steps that took place."""

    role = "mix"

    nan_at: int = -1
    """Iteration whose mixed images are NaN, and so its loss."""
    signal_at: int = -1
    """Iteration at which this process sends itself `signals`."""
    signals: str = "SIGTERM"
    """Names of signals, one after the other."""
    exit_at: int = -1
    """Iteration at which this process vanishes with exit code 0."""
    only_rank: int = -1
    """Rank that does the above; -1: every one."""
    pause: float = 0.0
    """Seconds that every mix takes."""

    @hookimpl
    def build_modules(self) -> dict[str, nn.Module]:
        counter = nn.Module()
        counter.register_buffer("steps", torch.zeros((), dtype=torch.int64))
        return {"counter": counter}

    @hookimpl
    def generate_mix(self, images: Tensor, step: Any, rng: torch.Generator) -> Mix:
        time.sleep(self.pause)
        here = self.only_rank in (-1, int(os.environ.get("RANK", "0")))
        if here and step.iteration == self.signal_at:
            for name in self.signals.split():
                os.kill(os.getpid(), getattr(signal, name))
        if here and step.iteration == self.exit_at:
            os._exit(0)
        lam = torch.rand(1, generator=rng).to(images.device)
        mixed = lam * images + (1 - lam) * images.roll(1, 0)
        if here and step.iteration == self.nan_at:
            mixed = mixed * math.nan
        partner = torch.arange(len(images), device=images.device).roll(1)
        return Mix.pair(mixed, partner, lam.expand(len(images)))

    @hookimpl
    def scalars(self, mix: Mix) -> dict[str, Tensor]:
        return {"shift": mix.lam.max()}

    @hookimpl
    def after_step(self, modules: Any) -> None:
        modules["counter"].steps += 1


@attrs.define(eq=False, kw_only=True)
class ToyFork:
    """A launcher whose runs are forks of this process, which has imported everything: a start costs nothing."""

    role = "launcher"
    spec_version = (1, 3)

    pause: float = 0.01
    """Seconds between two looks at the processes."""

    @hookimpl
    def launch_runs(self, runs: Any, jobs: int | None, report: Any, wanted_stop: Any) -> None:
        waiting, running, told = list(runs), {}, False
        while running or (waiting and not wanted_stop()):
            while waiting and len(running) < (jobs or 1) and not wanted_stop():
                run = waiting.pop(0)
                report(run, None)
                running[_forked(run)] = run
            if wanted_stop() and not told:
                told = True
                for pid in running:
                    os.kill(pid, signal.SIGTERM)
            for pid in list(running):  # not any child: the process that tests has others
                ended, status = os.waitpid(pid, os.WNOHANG)
                if ended:
                    report(running.pop(pid), os.waitstatus_to_exitcode(status))
            time.sleep(self.pause)


def _forked(run: Any) -> int:
    parent = os.getpid()
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        from mixcore.cli.main import main

        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_DFL)
        os.environ["MIXCORE_LAUNCHER"] = str(parent)
        os.chdir(run.directory)
        with run.log.open("a") as log:
            sys.stdout = sys.stderr = log
            code = main(["run", str(run.config)])
    finally:
        os._exit(code)
