"""The whole batch in the hooks that come after mixing: told as the step got it, and kept from a mixer's writing."""

from __future__ import annotations

from collections.abc import Mapping

import attrs
import pytest
import torch
from torch import Tensor

import mixcore
from mixcore.api import Batch, Mix, Step, Targets, hookimpl
from mixcore.step.step import TrainingStep
from mixcore.testing import tiny_network

TOLD: list[tuple[str, Batch]] = []


@attrs.define(eq=False)
class WritesWhereItMay:
    """A mixer that halves the images in place, or a copy of them where the batch is not its own."""

    role = "mix"
    spec_version = (1, 2)

    @hookimpl
    def generate_mix(self, images: Tensor, step: Step) -> Mix:
        return Mix.clean((images if step.may_overwrite else images.clone()).mul_(0.5))


@attrs.define(eq=False)
class LabelsByBatch:
    role = "labels"
    spec_version = (1, 2)

    @hookimpl
    def mix_labels(self, mix: Mix, labels: Tensor, batch: Batch) -> Targets:
        TOLD.append(("mix_labels", batch))
        return mix.targets(labels)


@attrs.define(eq=False)
class LossByBatch:
    spec_version = (1, 2)

    @hookimpl
    def extra_losses(self, batch: Batch) -> Mapping[str, Tensor]:
        TOLD.append(("extra_losses", batch))
        return {"brightness": batch.images.mean()}


PLUGINS = {
    "mix_labels": {"labels": LabelsByBatch()},
    "extra_losses": {"extra": [LossByBatch()]},
    "both": {"labels": LabelsByBatch(), "extra": [LossByBatch()]},
}


@pytest.mark.parametrize("named", PLUGINS)
def test_hooks_after_mixing_are_told_the_batch_as_it_came(named: str) -> None:
    TOLD.clear()
    images = torch.rand(4, 3, 16, 16)
    before, index, maps = images.clone(), torch.arange(4) + 100, {"objects": torch.rand(4, 1, 16, 16)}
    augmented = (torch.rand(4, 3, 16, 16),)
    _step(named)(images, torch.arange(4), index=index, maps=maps, augmented=augmented)
    assert [hook for hook, _ in TOLD] == (["mix_labels", "extra_losses"] if named == "both" else [named])
    for _, batch in TOLD:
        assert torch.equal(batch.images, before), "the mixer wrote into images that a later hook reads"
        assert torch.equal(batch.labels, torch.arange(4))
        assert torch.equal(batch.index, index)
        assert torch.equal(batch.maps["objects"], maps["objects"])
        assert torch.equal(batch.augmented[0], augmented[0])


def test_a_batch_that_nobody_reads_any_more_is_the_mixers() -> None:
    images = torch.rand(4, 3, 16, 16)
    before = images.clone()
    _step(None)(images, torch.arange(4))
    assert torch.equal(images, before * 0.5)


def _step(named: str | None) -> TrainingStep:
    """A step that owns its batch, with the plugins of one case."""
    return mixcore.create_step(
        tiny_network((), 5, (16, 16), 3),
        mix=WritesWhereItMay(),
        num_classes=5,
        iterations=2,
        image_size=(16, 16),
        overwrite=True,
        **(PLUGINS[named] if named else {}),
    )
