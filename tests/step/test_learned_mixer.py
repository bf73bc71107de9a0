"""The doors for a mixer that learns in the same step, held by a made-up one: no method of ours is named here."""

from __future__ import annotations

import copy
from typing import Any

import attrs
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import mixcore
from mixcore.api import Mix, Part, head_width, hookimpl, stage_shape
from mixcore.step.step import TrainingStep
from mixcore.testing import TinyConvNet

CLASSES, SIZE = 4, (16, 16)


@attrs.define(eq=False, kw_only=True)
class LearnedShare:
    """A linear judge reads a stage of a momentum copy and says per image how much of it to keep."""

    role = "mix"
    suggests = {"predictor": "copy"}

    lr: float = 0.5

    @hookimpl
    def build_modules(self, model: nn.Module, task: Any) -> dict[str, Part]:
        channels, _, _ = stage_shape(model, 2, task)
        judge = nn.Linear(channels, 1)
        clean = nn.Linear(head_width(model, task), task.num_classes)
        return {
            "judge": Part(module=judge, optimizer={"lr": self.lr, "momentum": 0.0}),
            "clean": Part(module=clean),
            "copy": Part(module=copy.deepcopy(model), optimizer=None, stages=(2,)),
        }

    @hookimpl
    def generate_mix(self, images: Tensor, labels: Tensor, probe: Any, modules: Any) -> Mix:
        partner = torch.arange(len(images), device=images.device).roll(1)
        features = probe.look(images, network="copy", train=True, stages=(2,)).stages[2]
        lam = modules["judge"](features.mean((2, 3))).sigmoid()[:, 0]
        share = lam[:, None, None, None]
        mixed = share * images + (1 - share) * images[partner]
        judged = probe.look(mixed, network="copy", train=True, grad=True)
        targets = Mix.pair(mixed, partner, lam.detach()).targets(labels)
        # first the copy's graph is freed, then the judge's
        loss = probe.settle(probe.criterion(judged.logits, targets), [lam])
        loss = probe.settle(loss, modules["judge"].parameters())
        clean = Mix.clean(images, head="clean", scale=0.5)
        return Mix.pair(mixed.detach(), partner, lam.detach(), views=(clean,), losses={"judge": loss})

    @hookimpl
    def after_step(self, model: nn.Module, modules: Any) -> None:
        torch._foreach_lerp_(list(modules["copy"].parameters()), list(model.parameters()), 0.25)

    @hookimpl
    def predictors(self, model: nn.Module, modules: Any) -> dict[str, Any]:
        return {"copy": (modules["copy"], None), "clean": (model, modules["clean"])}


def make_step() -> TrainingStep:
    torch.manual_seed(0)
    model = TinyConvNet(CLASSES)
    return mixcore.create_step(model, mix=LearnedShare(), num_classes=CLASSES, iterations=10, image_size=SIZE)


def batch() -> tuple[Tensor, Tensor]:
    rng = torch.Generator().manual_seed(0)
    return torch.randn(6, 3, *SIZE, generator=rng), torch.randint(CLASSES, (6,), generator=rng)


def test_every_gradient_is_that_of_one_plain_backward() -> None:
    step = make_step()
    (parts,) = step.parts.values()
    q, k, judge, clean = (copy.deepcopy(m) for m in (step.model, parts["copy"], parts["judge"], parts["clean"]))
    images, labels = batch()
    partner = torch.arange(6).roll(1)
    with torch.no_grad():
        features = k.forward_features(images)
    lam = judge(features.mean((2, 3))).sigmoid()
    share = lam[:, :, None, None]
    mixed = share * images + (1 - share) * images[partner]

    def pair(logits: Tensor) -> Tensor:
        own, other = (F.cross_entropy(logits, y, reduction="none") for y in (labels, labels[partner]))
        weight = lam[:, 0].detach()
        return (weight * own + (1 - weight) * other).mean()

    total = pair(k(mixed)) + 0.5 * F.cross_entropy(clean(q.forward_features(images).mean((2, 3))), labels)
    total = total + pair(q(mixed.detach()))
    total.backward()
    loss, report = step(images, labels)
    loss.backward()
    torch.testing.assert_close(loss, total)
    assert "judge" in " ".join(report.losses)
    for module, wanted in ((step.model, q), (parts["judge"], judge), (parts["clean"], clean)):
        for (name, found), expected in zip(module.named_parameters(), wanted.parameters(), strict=True):
            torch.testing.assert_close(
                found.grad, expected.grad, rtol=1e-4, atol=1e-6, msg=lambda m, n=name: f"{n} {m}"
            )
            assert found.grad.abs().max() > 0
    assert all(parameter.grad is None for parameter in parts["copy"].parameters())
    for name, buffer in k.named_buffers():
        torch.testing.assert_close(parts["copy"].get_buffer(name), buffer)


def test_groups_average_and_predictors() -> None:
    step = make_step()
    (parts,) = step.parts.values()
    groups = {group["name"].split(".")[-1]: group for group in step.param_groups(lr=0.1, momentum=0.9)}
    assert {name: (group["lr"], group["momentum"]) for name, group in groups.items()} == {
        "backbone": (0.1, 0.9),
        "judge": (0.5, 0.0),
        "clean": (0.1, 0.9),
    }
    optimizer = torch.optim.SGD(step.param_groups(lr=0.1), lr=0.1, momentum=0, weight_decay=5e-4)
    assert {(group["momentum"], group["weight_decay"]) for group in optimizer.param_groups} == {(0, 5e-4)}
    before = [p.clone() for p in parts["copy"].parameters()]
    step(*batch())[0].backward()
    optimizer.step()
    step.after_step()
    for old, new, found in zip(before, step.model.parameters(), parts["copy"].parameters(), strict=True):
        torch.testing.assert_close(found, 0.75 * old + 0.25 * new)
    assert set(step.predictors()) == {"model", "copy", "clean"}
    assert step.predictors()["clean"] == (step.model, parts["clean"])
