"""Checks through whole training steps, for plugins that are not mixers: labels, loss, extras, backbones."""

from __future__ import annotations

from typing import Any

import attrs
import torch
from torch import Tensor

from mixcore.api import Mix, hookimpl
from mixcore.step.step import TrainingStep
from mixcore.testing.expect import expect, expect_kept, require_no_dropout
from mixcore.testing.fakes import Bands, Columns, Neighbours
from mixcore.testing.frozen import frozen
from mixcore.testing.harness import Harness, companions
from mixcore.types import LabelKind

__all__ = [
    "any_batch_size",
    "any_mix",
    "every_kind_of_labels",
    "same_seed_same_loss",
    "sources_are_followed",
    "the_batch_is_kept",
    "the_mix_is_kept",
]


def _loss(step: TrainingStep, images: Tensor, labels: Tensor, what: str, iteration: int = 0) -> Tensor:
    """The loss of one iteration: a finite scalar."""
    loss, _ = step(images, labels, epoch=0, iteration=iteration, logging=True, **companions(step, images))
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
        loss, _ = step(images, labels, epoch=0, iteration=0, **companions(step, images))
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
    """Mixes of two and of more, with masks and without, and batches that were not mixed."""
    needs_mask = "mask" in getattr(harness.plugin, "needs", ())
    mixes: dict[str, list[object]] = {
        "a mix with masks": [Columns()],
        "masks on some iterations": [Columns(), Columns(masked=False)],
        "a mix of three": [Bands()],
        "mixes of four and of one": [Bands(sources=4), Bands(sources=1)],
    }
    if not needs_mask:
        mixes |= {
            "a mix without masks": [Columns(masked=False)],
            "a mix of three without masks": [Bands(masked=False)],
            "an unmixed batch": ["none"],
        }
    for what, mixers in mixes.items():
        step = harness.step(mix=mixers)
        for iteration in range(4):
            images, labels = harness.batch(seed=iteration)
            _loss(step, images, labels, what, iteration)


def the_batch_is_kept(harness: Harness) -> None:
    """Images, labels, maps and further augmentations are what they were."""
    images, labels = harness.batch()
    kept = images.clone(), labels.clone()
    step = harness.step()
    beside = companions(step, images)
    step(images, labels, epoch=0, iteration=0, **beside)
    expect(torch.equal(images, kept[0]), "the images of the batch were changed")
    expect(torch.equal(labels, kept[1]), "the labels of the batch were changed")
    expect_kept(beside, companions(step, kept[0]))


@attrs.define(eq=False, kw_only=True)
class _Recorded(Columns):
    """Remembers its mix, and what was in it."""

    made: list[tuple[Mix, Any]] = attrs.field(factory=list)

    @hookimpl
    def generate_mix(self, images: Tensor, rng: torch.Generator) -> Mix:
        mix = attrs.evolve(Columns.generate_mix(self, images, rng), notes={"rows": torch.arange(len(images))})
        self.made.append((mix, {name: frozen(getattr(mix, name)) for name in MIX_FIELDS}))
        return mix


MIX_FIELDS = ("images", "sources", "weights", "masks", "notes", "losses")


def the_mix_is_kept(harness: Harness) -> None:
    """The mix is what the mixer made, for the hooks that come later."""
    images, labels = harness.batch()
    mixer = _Recorded()
    step = harness.step(mix=[mixer])
    step(images, labels, epoch=0, iteration=0, logging=True, **companions(step, images))
    for mix, made in mixer.made:
        for name, value in made.items():
            expect(frozen(getattr(mix, name)) == value, f"the mix's {name} were changed; copy before you write")


def sources_are_followed(harness: Harness) -> None:
    """Label weights and losses follow the mix's sources: the order of the batch changes nothing."""
    images, labels = harness.batch()
    found = []
    for turned in (0, 2):
        step = harness.step(mix=[Neighbours(rows=len(images), turned=turned)])
        rolled = images.roll(turned, 0)
        loss, report = step(rolled, labels.roll(turned, 0), epoch=0, iteration=0, **companions(step, rolled))
        found.append((report.targets.dense(harness.subject.num_classes), loss.detach()))
    for one, other in zip(*found, strict=True):
        expect(
            torch.allclose(one, other, rtol=1e-3, atol=1e-4),
            "the same mix of a batch in another order gave other targets; row i of a mix comes from the rows "
            "mix.sources[i] of the batch (labels[mix.sources]), which need not be row i",
        )


def same_seed_same_loss(harness: Harness) -> None:
    """Two instances with one seed give the same loss, bit for bit."""
    require_no_dropout(harness)
    images, labels = harness.batch()
    for iteration in range(3):
        first, second = (_loss(harness.step(), images, labels, "a batch", iteration) for _ in range(2))
        expect(torch.equal(first, second), f"two instances with the same seed gave losses {first} and {second}")
