"""What belongs to the rows of a batch reaches the hooks that name the whole batch."""

from __future__ import annotations

from typing import Any

import attrs
import pytest
import torch
from torch import Tensor

import mixcore
from mixcore.api import Batch, Mix, hookimpl
from mixcore.errors import DataError
from mixcore.testing import tiny_network

SEEN: list[Batch] = []


@attrs.define(eq=False)
class Looks:
    """A mixer that keeps every batch that it is told."""

    role = "mix"

    @hookimpl
    def generate_mix(self, images: Tensor, batch: Batch) -> Mix:
        assert batch.images is images
        SEEN.append(batch)
        return Mix.clean(images)


def told(rows: int = 4) -> dict[str, Any]:
    return {
        "index": torch.arange(rows) + 100,
        "maps": {"objects": torch.rand(rows, 1, 16, 16)},
        "augmented": (torch.rand(rows, 3, 16, 16),),
    }


@pytest.mark.parametrize("group_size", [None, 2])
def test_hooks_are_told_the_rows_that_belong_to_their_images(group_size: int | None) -> None:
    SEEN.clear()
    step = mixcore.create_step(
        tiny_network((), 5, (16, 16), 3), mix=Looks(), num_classes=5, iterations=2, image_size=(16, 16)
    )
    if group_size is not None:
        plugins = attrs.evolve(step._setup.plugins, group_sizes=(group_size,))
        step._setup = attrs.evolve(step._setup, plugins=plugins)
    images, more = torch.rand(4, 3, 16, 16), told()
    step(images, torch.arange(4), **more)
    size = group_size or 4
    assert [len(batch.images) for batch in SEEN] == [size] * (4 // size)
    assert torch.equal(torch.cat([batch.index for batch in SEEN if batch.index is not None]), more["index"])
    assert torch.equal(torch.cat([batch.maps["objects"] for batch in SEEN]), more["maps"]["objects"])
    assert torch.equal(torch.cat([batch.augmented[0] for batch in SEEN]), more["augmented"][0])


def test_a_mixer_is_told_the_same() -> None:
    SEEN.clear()
    mixer = mixcore.create_mixer(Looks(), num_classes=5)
    more = told()
    mixer(torch.rand(4, 3, 16, 16), torch.arange(4), **more)
    assert SEEN[0].index is more["index"]
    assert SEEN[0].maps["objects"] is more["maps"]["objects"]
    mixer(torch.rand(4, 3, 16, 16), torch.arange(4))
    assert SEEN[1].index is None
    assert not SEEN[1].maps
    assert SEEN[1].augmented == ()


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("index", torch.arange(3), r"index is int64 \[3\]; expected int64 \[4\]"),
        ("index", torch.rand(4), r"index is float32 \[4\]"),
        ("maps", {"objects": torch.rand(4, 1, 8, 8)}, r"the map 'objects' is .* expected \[4,c,16,16\]"),
        ("augmented", [torch.rand(4, 1, 16, 16)], r"augmentation 0 is .* as the images"),
    ],
)
def test_what_does_not_belong_to_the_images_is_refused(name: str, value: Any, message: str) -> None:
    step = mixcore.create_step(tiny_network((), 5, (16, 16), 3), num_classes=5, iterations=2, image_size=(16, 16))
    for door in (step, mixcore.create_mixer("none", num_classes=5)):
        with pytest.raises(DataError, match=message):
            door(torch.rand(4, 3, 16, 16), torch.arange(4), **{name: value})


def test_a_batch_unpacks_as_images_and_labels() -> None:
    images, labels = Batch(images=torch.ones(2, 1, 1, 1), labels=torch.zeros(2))
    assert images.sum() == 2
    assert labels.sum() == 0
