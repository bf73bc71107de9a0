"""The learning rate of every group at every iteration of a real run, by the formula of the published recipes."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from mixcore.discovery.manager import build_plugins
from mixcore.logs.progress import Progress
from mixcore.run.resolve import load_config
from mixcore.run.session import build_session
from mixcore.train.agreement import Processes
from mixcore.train.loop import Loop

BLOCK = """
import attrs, torch
from torch import nn
from mixcore.api import Mix, Part, hookimpl

@attrs.define(eq=False, kw_only=True)
class Blocked:
    role = "mix"
    settings: dict[str, float] = attrs.field(factory=dict)

    @hookimpl
    def build_modules(self):
        return {"block": Part(module=nn.Linear(1, 1), optimizer=self.settings)}

    @hookimpl
    def generate_mix(self, images, modules):
        unused = modules["block"](images.new_zeros(1, 1)).sum() * 0
        return Mix.clean(images, losses={"unused": unused})
"""

EPOCHS, PER_EPOCH = 24, 3
RECIPES: dict[str, dict[str, Any]] = {
    "cifar10": {"lr": 0.1},
    "cifar100, automix": {"lr": 0.1, "min_lr": 0.05},
    "cifar100, wrn": {"lr": 0.03, "min_lr": 1e-3},
    "cifar100-vit": {"clock": "iteration", "lr": 1e-3, "min_lr": 1e-6, "warmup_epochs": 20, "warmup_ratio": 1e-5},
    "tiny-imagenet, automix": {"lr": 0.2, "min_lr": 0.05, "block": {"lr": 0.1, "min_lr": 1e-3}},
    "imagenet-pytorch, automix": {"lr": 0.1, "block": {"lr": 0.1, "min_lr": 1e-3, "momentum": 0.0}},
    "imagenet-rsb-a3": {"lr": 8e-3, "min_lr": 1e-6, "warmup_epochs": 5, "warmup_ratio": 1e-5},
    "imagenet-rsb-a2": {"lr": 5e-3, "min_lr": 1e-6, "warmup_epochs": 5, "warmup_ratio": 1e-5, "accumulate": 2},
    "imagenet-deit": {"clock": "iteration", "lr": 1e-3, "min_lr": 1e-5, "warmup_epochs": 5, "warmup_ratio": 1e-5},
    "imagenet-deit, pvt": {"clock": "iteration", "lr": 1e-3, "min_lr": 1e-5, "warmup_epochs": 5, "warmup_ratio": 1e-6},
    "imagenet-deit, swin, automix": {
        "clock": "iteration",
        "lr": 1e-3,
        "min_lr": 1e-5,
        "warmup_epochs": 20,
        "warmup_ratio": 1e-6,
        "block": {"lr": 1e-3, "min_lr": 1e-4},
    },
    "imagenet-deit, convnext, automix": {
        "clock": "iteration",
        "lr": 4e-3,
        "min_lr": 1e-6,
        "warmup_epochs": 20,
        "warmup_ratio": 1e-6,
        "accumulate": 2,
        "block": {"lr": 4e-3, "min_lr": 1e-4},
    },
    "imagenet-deit, moganet": {
        "clock": "iteration",
        "lr": 1e-3,
        "min_lr": 1e-6,
        "warmup_epochs": 5,
        "warmup_ratio": 1e-6,
    },
    "cub200": {"lr": 1e-3, "block": {"lr": 0.01, "min_lr": 5e-4}},
    "cub200, mergemix": {"clock": "iteration", "lr": 1e-5, "min_lr": 1e-7, "warmup_epochs": 20, "warmup_ratio": 1e-5},
    "block without a rate of its own": {
        "clock": "iteration",
        "lr": 0.1,
        "warmup_epochs": 5,
        "warmup_ratio": 0.5,
        "block": {"min_lr": 0.01},
    },
}


def stated(t: int, *, by_iteration: bool, base: float, least: float, warmup_epochs: int, ratio: float) -> float:
    p = t / (EPOCHS * PER_EPOCH) if by_iteration else (t // PER_EPOCH) / EPOCHS
    rate = least + (base - least) * (1 + math.cos(math.pi * p)) / 2
    length = warmup_epochs * PER_EPOCH
    return rate * (1 - (1 - t / length) * (1 - ratio)) if t < length else rate


def looped(config: Path, overrides: list[str]) -> Loop:
    loaded = load_config(config, overrides)
    processes = Processes(device=torch.device("cpu"))
    session = build_session(loaded.config, build_plugins(loaded.config), processes)
    return Loop(
        state=session.state,
        module=session.module,
        schedule=session.schedule,
        loader=session.loader,
        config=loaded.config.train,
        seed=0,
        processes=processes,
        progress=Progress(EPOCHS, rank=1),
        wanted_stop=lambda: 0,
        save=lambda: None,
    )


@pytest.mark.parametrize("name", RECIPES)
def test_every_iteration_has_the_stated_rate(name: str, toy_config: Path, install: Callable[..., None]) -> None:
    install({"blocked": "blocked:Blocked"}, {"blocked": BLOCK})
    recipe = RECIPES[name]
    block, clock = recipe.get("block"), recipe.get("clock", "epoch")
    settings = {
        "optimizer.lr": recipe["lr"],
        "schedule.epochs": EPOCHS,
        "schedule.clock": f'"{clock}"',
        "schedule.min_lr": recipe.get("min_lr", 0.0),
        "schedule.warmup_epochs": recipe.get("warmup_epochs", 0),
        "schedule.warmup_ratio": recipe.get("warmup_ratio", 1e-5),
        "train.accumulate": recipe.get("accumulate", 1),
        "mix.name": "blocked" if block else "none",
        **{f"mix.settings.{key}": value for key, value in (block or {}).items()},
    }
    loop = looped(toy_config, [f"{key}={value}" for key, value in settings.items()])
    expected = {
        "by_iteration": clock == "iteration",
        "base": recipe["lr"],
        "least": recipe.get("min_lr", 0.0),
        "warmup_epochs": recipe.get("warmup_epochs", 0),
        "ratio": recipe.get("warmup_ratio", 1e-5),
    }
    of_block = {**expected, "least": (block or {}).get("min_lr", expected["least"])}
    if block and "lr" in block:
        of_block |= {"base": block["lr"], "warmup_epochs": 0}
    seen: dict[str, list[float]] = {}
    for epoch in range(EPOCHS):
        loop.progress.start_epoch(epoch, PER_EPOCH, 0)
        for batch in loop.loader.epoch(epoch):
            loop.iterate(epoch, batch)
            for group in loop.state.optimizer.param_groups:
                seen.setdefault(group["name"], []).append(group["lr"])
    for group, values in seen.items():
        one = expected if group == "backbone" else of_block
        assert values == pytest.approx([stated(t, **one) for t in range(EPOCHS * PER_EPOCH)], rel=1e-12), group
    assert set(seen) == {"backbone", "blocked.block"} if block else {"backbone"}
    assert loop.state.updates == math.ceil(EPOCHS * PER_EPOCH / recipe.get("accumulate", 1))


def test_the_last_step_of_a_run_is_of_what_is_left(toy_config: Path) -> None:
    """Nine micro-batches, four at a time: of the last one alone, whose loss is divided by four as well."""
    plain = ["backbone.dropout=0.0", "optimizer.momentum=0.0", "optimizer.weight_decay=0.0", "schedule.name=constant"]
    loop = looped(toy_config, [*plain, "train.accumulate=4", "schedule.epochs=3"])
    step, state = loop.state.step, loop.state
    for epoch in range(3):
        loop.progress.start_epoch(epoch, PER_EPOCH, 0)
        for number, batch in enumerate(loop.loader.epoch(epoch)):
            iteration = PER_EPOCH * epoch + number
            before = [parameter.detach().clone() for parameter in step.model.parameters()]
            if iteration == 8:
                loss, _ = step(batch.images, batch.labels, epoch=epoch, iteration=iteration)
                gradients = torch.autograd.grad(loss / 4, list(step.model.parameters()))
            loop.iterate(epoch, batch)
            moved = not all(torch.equal(a, b) for a, b in zip(before, step.model.parameters(), strict=True))
            assert moved == (iteration in (3, 7, 8))
    assert state.updates == 3
    for old, gradient, new in zip(before, gradients, step.model.parameters(), strict=True):
        torch.testing.assert_close(new.detach(), old - 0.05 * gradient, rtol=1e-6, atol=1e-8)
