"""Checks that a mixer changes nothing but its result: batch, network, generators."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mixcore.testing.expect import expect, expect_kept, expect_same_mix
from mixcore.testing.harness import Harness, companions

__all__ = [
    "batch_is_not_modified",
    "overwriting_gives_the_same_mix",
    "the_network_is_not_touched",
]


def batch_is_not_modified(harness: Harness) -> None:
    """Images, labels, maps and further augmentations are what they were."""
    images, labels = harness.batch()
    kept = images.clone(), labels.clone()
    step = harness.step()
    beside = companions(step, images)
    for iteration in range(4):
        harness.mix(images, labels, iteration=iteration, step=step, beside=beside)
        expect(torch.equal(images, kept[0]), "the images of the batch were changed; ask step.may_overwrite first")
        expect(torch.equal(labels, kept[1]), "the labels of the batch were changed")
        expect_kept(beside, companions(step, kept[0]))


def overwriting_gives_the_same_mix(harness: Harness) -> None:
    """With step.may_overwrite the mix has the same bits."""
    images, labels = harness.batch(7)
    for iteration in range(4):
        step = harness.step(owns_batch=True)
        beside = companions(step, images)
        _, report = step(images.clone(), labels.clone(), epoch=0, iteration=iteration, **beside)
        expected = harness.mix(images, labels, iteration=iteration)
        expect_same_mix(report.mix, expected, "with step.may_overwrite, against a mix that leaves the batch alone")


def the_network_is_not_touched(harness: Harness) -> None:
    """Parameters, BatchNorm statistics and the mode of every submodule are what they were."""
    images, labels = harness.batch()
    step = harness.step(options=harness.subject.looking)
    next(step.model.children()).eval()
    before = _state(step.model)
    for iteration in range(3):
        harness.mix(images, labels, iteration=iteration, step=step)
        for name, found in _state(step.model).items():
            unchanged = _same(found, before[name])
            expect(unchanged, f"{name} of the trained network changed by mixing a batch; look through the probe")


def _state(model: nn.Module) -> dict[str, Tensor | bool]:
    state: dict[str, Tensor | bool] = {name: value.clone() for name, value in model.state_dict().items()}
    for name, parameter in model.named_parameters():
        state[f"requires_grad of {name}"] = parameter.requires_grad
    state.update({f"train mode of {name or 'the whole'}": module.training for name, module in model.named_modules()})
    return state


def _same(found: Tensor | bool, expected: Tensor | bool) -> bool:
    if isinstance(found, Tensor) and isinstance(expected, Tensor):
        return torch.equal(found, expected)
    return found is expected
