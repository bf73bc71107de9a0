"""The check of mixers that are trained through the images that they make: `contract = {"graph": True}`."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mixcore.step.step import TrainingStep
from mixcore.testing.expect import expect
from mixcore.testing.harness import Harness, NotApplicableError, companions

__all__ = ["gradient_arrives"]

ITERATIONS = 3


def gradient_arrives(harness: Harness) -> None:
    """Where the class declares a graph, the gradient of the network's loss reaches a trained part of the plugin."""
    if not harness.subject.graph:
        raise NotApplicableError('it does not declare contract = {"graph": True}')
    step = harness.step()
    parts = [
        parameter for one in step.trained() if one.module is not step.model for parameter in one.module.parameters()
    ]
    expect(bool(parts), 'contract = {"graph": True}, but build_modules gives no part that is trained')
    reached = any(_arrives(harness, step, parts, iteration) for iteration in range(ITERATIONS))
    expect(
        reached,
        'contract = {"graph": True}, but the gradient of the network\'s loss on the mixed images reaches no part: the '
        "graph is cut between the part and the mix (detach, no_grad, argmax, a comparison); without a graph drop the "
        "declaration",
    )


def _arrives(harness: Harness, step: TrainingStep, parts: Sequence[Tensor], iteration: int) -> bool:
    """Whether any part has a gradient of the loss without what the mixer added to it as Mix.losses."""
    images, labels = harness.batch(seed=iteration)
    loss, report = step(images, labels, epoch=0, iteration=iteration, **companions(step, images))
    for own in report.mix.losses.values():
        loss = loss - own
    gradients = torch.autograd.grad(loss, parts, allow_unused=True)
    given = [gradient for gradient in gradients if gradient is not None]
    expect(all(bool(gradient.isfinite().all()) for gradient in given), "the gradient that reaches a part is not finite")
    return any(bool(gradient.any()) for gradient in given)
