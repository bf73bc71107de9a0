"""Checks through whole training steps, for plugins that are not mixers: labels, loss, extras, backbones."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mixcore.testing.expect import expect
from mixcore.testing.fakes import Columns
from mixcore.testing.generators import generator_states
from mixcore.testing.harness import Harness, NotApplicableError
from mixcore.train.step import TrainingStep
from mixcore.types import LabelKind

__all__ = [
    "any_batch_size",
    "any_mix",
    "every_kind_of_labels",
    "global_generators_are_not_used",
    "same_seed_same_loss",
    "the_batch_is_kept",
]


def _loss(step: TrainingStep, images: Tensor, labels: Tensor, what: str, iteration: int = 0) -> Tensor:
    """The loss of one iteration: a finite scalar."""
    loss, _ = step(images, labels, epoch=0, iteration=iteration, logging=True)
    expect(loss.ndim == 0, f"{what}: the loss has shape {list(loss.shape)}, expected a scalar")
    expect(bool(loss.isfinite()), f"{what}: the loss is {loss.item()}")
    return loss.detach()


def any_batch_size(harness: Harness) -> None:
    """Training steps of 1, 2, 3 and 7 images, and gradients of them."""
    # BatchNorm of a single value, which deep networks have for one small image, is torch's refusal and not the plugin's
    smallest = 2 if harness.role == "backbone" else 1
    for count in (smallest, 2, 3, 7):
        step = harness.step()
        images, labels = harness.batch(count)
        loss, _ = step(images, labels, epoch=0, iteration=0)
        loss.backward()
        for name, parameter in step.named_parameters():
            finite = parameter.grad is None or bool(parameter.grad.isfinite().all())
            expect(finite, f"a batch of {count}: the gradient of {name} is not finite")


def every_kind_of_labels(harness: Harness) -> None:
    """Every kind of labels that the plugin accepts: classes, soft, several at once, values."""
    for kind in _trainable_kinds(harness):
        images, labels = harness.batch(kind=kind)
        _loss(harness.step(kind=kind), images, labels, f"labels of kind {kind}")


def _trainable_kinds(harness: Harness) -> tuple[LabelKind, ...]:
    """Kinds that the plugin and the loss beside it both accept."""
    losses = getattr(harness.plugins().loss.plugin, "accepts", harness.kinds)
    return tuple(kind for kind in harness.kinds if kind in losses)


def any_mix(harness: Harness) -> None:
    """Mixes with masks and without, and batches that were not mixed."""
    needs_mask = "mask" in getattr(harness.plugin, "needs", ())
    mixes: dict[str, list[object]] = {
        "a mix with masks": [Columns()],
        "masks on some iterations": [Columns(), Columns(masked=False)],
    }
    if not needs_mask:
        mixes |= {"a mix without masks": [Columns(masked=False)], "an unmixed batch": ["none"]}
    for what, mixers in mixes.items():
        step = harness.step(mix=mixers)
        for iteration in range(4):
            images, labels = harness.batch(seed=iteration)
            _loss(step, images, labels, what, iteration)


def the_batch_is_kept(harness: Harness) -> None:
    """Images and labels are what they were."""
    images, labels = harness.batch()
    kept = images.clone(), labels.clone()
    harness.step()(images, labels, epoch=0, iteration=0)
    expect(torch.equal(images, kept[0]), "the images of the batch were changed")
    expect(torch.equal(labels, kept[1]), "the labels of the batch were changed")


def same_seed_same_loss(harness: Harness) -> None:
    """Two instances with one seed give the same loss, bit for bit."""
    _without_dropout(harness)
    images, labels = harness.batch()
    for iteration in range(3):
        first, second = (_loss(harness.step(), images, labels, "a batch", iteration) for _ in range(2))
        expect(torch.equal(first, second), f"two instances with the same seed gave losses {first} and {second}")


def global_generators_are_not_used(harness: Harness) -> None:
    """The generators of torch, numpy and random draw next what they would have drawn."""
    _without_dropout(harness)
    images, labels = harness.batch()
    step = harness.step()
    before = generator_states()
    step(images, labels, epoch=0, iteration=0, logging=True)
    for name, state in generator_states().items():
        expect(state == before[name], f"the global generator of {name} was used; draw from what the hook is given")


def _without_dropout(harness: Harness) -> None:
    """Dropout draws from the global generators by right, which a run seeds for it."""
    for module in harness.step().modules():
        rate = getattr(module, "p", getattr(module, "drop_prob", 0.0))
        if (isinstance(module, nn.modules.dropout._DropoutNd) or type(module).__name__ == "DropPath") and rate:
            raise NotApplicableError("its network has dropout, which draws from the global generators")
