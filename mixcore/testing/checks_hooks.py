"""Checks of what no hook may do, of whatever role: keep something, go backward, use the global generators."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn
from unittest import mock

import torch
from torch import nn

from mixcore.step.step import TrainingStep
from mixcore.testing.expect import expect, require_no_dropout
from mixcore.testing.frozen import attributes, frozen
from mixcore.testing.generators import arbitrary_generators, generator_states
from mixcore.testing.harness import Harness, companions

__all__ = ["global_generators_are_left_alone", "gradients_are_left_alone", "nothing_is_kept"]

ITERATIONS = 3


def nothing_is_kept(harness: Harness) -> None:
    """The plugin's attributes are the same after building, training steps and evaluation as before."""
    plugins = harness.plugins()
    plugin = harness.owner(plugins).plugin
    before = _frozen(plugin)
    step = harness.step(plugins=plugins)
    for iteration in range(ITERATIONS):
        _take_step(harness, step, iteration)
    step.predictors()
    for name, value in _frozen(plugin).items():
        expect(
            before.get(name) == value,
            f"a hook changed self.{name}, which no checkpoint holds; keep what must last in a part of build_modules "
            "(a buffer), and hand what a later hook of the same iteration needs on in mix.notes",
        )


def _take_step(harness: Harness, step: TrainingStep, iteration: int) -> None:
    """One training step through every hook, without an optimizer."""
    images, labels = harness.batch(seed=iteration)
    loss, _ = step(images, labels, epoch=0, iteration=iteration, logging=True, **companions(step, images))
    loss.backward()
    step.after_step()


def _frozen(plugin: object) -> dict[str, Any]:
    return {name: frozen(value) for name, value in attributes(plugin).items()}


def gradients_are_left_alone(harness: Harness) -> None:
    """No hook calls backward, and none touches the gradient of a parameter."""
    images, labels = harness.batch()
    step = harness.step()
    trained = {name: parameter for name, parameter in step.named_parameters() if parameter.requires_grad}
    for parameter in trained.values():
        parameter.grad = torch.full_like(parameter, 0.5)
    for iteration in range(ITERATIONS):
        with _refused_backward():
            step(images, labels, epoch=0, iteration=iteration, logging=True, **companions(step, images))
        _expect_gradients(trained, "before the one backward of the iteration")
        step.after_step()
        _expect_gradients(trained, "in after_step")


def _expect_gradients(trained: dict[str, nn.Parameter], when: str) -> None:
    for name, parameter in trained.items():
        kept = parameter.grad is not None and bool((parameter.grad == 0.5).all())
        expect(
            kept, f"the gradient of {name} was changed by a hook {when}; take gradients by probe.settle or the probe"
        )


@contextmanager
def _refused_backward() -> Iterator[None]:
    """Inside, backward raises AssertionError; torch.autograd.grad does not, its gradients go nowhere by themselves."""

    def refuse(*_args: object, **_kwargs: object) -> NoReturn:
        raise AssertionError(
            "a hook calls backward, which breaks training on several processes; return the loss, or let probe.settle "
            "take its gradient now"
        )

    with mock.patch.object(torch.autograd, "backward", refuse):
        yield


def global_generators_are_left_alone(harness: Harness) -> None:
    """The generators of torch, numpy and random draw next what they would have drawn: neither used nor seeded."""
    require_no_dropout(harness)
    with arbitrary_generators():
        before = generator_states()
        step = harness.step()
        _expect_generators(before, "build_modules")
        for iteration in range(ITERATIONS):
            _take_step(harness, step, iteration)
            _expect_generators(before, "a training step")


def _expect_generators(before: dict[str, object], where: str) -> None:
    for name, state in generator_states().items():
        expect(
            state == before[name],
            f"the global generator of {name} was used or seeded in {where}; draw from the generators that hooks are "
            "given (rng, step.shared_rng, step.device_rng)",
        )
