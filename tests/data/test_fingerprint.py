"""What a data set is told by."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from mixcore.data.fingerprint import fingerprints
from mixcore.types import Data, Resident, Task

TASK = Task(num_classes=3, in_channels=1, image_size=(4, 4), mean=(0.5,), std=(0.5,))
IMAGES, LABELS = torch.arange(96, dtype=torch.uint8).view(6, 1, 4, 4), torch.arange(6) % 3


class Listed(torch.utils.data.Dataset[Any]):
    """Six samples that nobody has to read."""

    def __init__(self, **attributes: Any) -> None:
        self.__dict__.update(attributes)

    def __len__(self) -> int:
        return 6

    def __getitem__(self, index: int) -> Any:
        raise AssertionError("read")


def told(train: Any) -> dict[str, Any]:
    found = fingerprints(Data(train=train, validation=Resident(images=IMAGES, labels=LABELS), task=TASK))
    assert found.keys() == {"training", "validation"}
    assert found["training"]["samples"] == 6
    return found["training"]


def resident(images: torch.Tensor = IMAGES, labels: torch.Tensor = LABELS) -> dict[str, Any]:
    return told(Resident(images=images, labels=labels))


def test_a_resident_set_is_told_by_every_byte() -> None:
    assert resident() == resident(IMAGES.clone(), LABELS.clone())
    assert resident(IMAGES.permute(0, 1, 3, 2).contiguous().permute(0, 1, 3, 2)) == resident(), "however it is stored"
    for index in (0, 50, 95):
        images = IMAGES.clone()
        images.view(-1)[index] ^= 1
        assert resident(images) != resident()
    assert resident(labels=LABELS.roll(1)) != resident()
    assert resident(labels=LABELS.float()) != resident()
    assert resident(IMAGES.view(6, 1, 2, 8)) != resident()


def test_maps_of_a_resident_set_count_and_a_set_without_is_told_as_ever() -> None:
    def mapped(**maps: torch.Tensor) -> dict[str, Any]:
        return told(Resident(images=IMAGES, labels=LABELS, maps=maps))

    assert mapped() == resident() == {"samples": 6, "hash": "97eb67d323a9382784cd23fde36f8157"}
    one, other = IMAGES.clone(), IMAGES.flip(0)
    assert len({mapped(**maps)["hash"] for maps in ({}, {"a": one}, {"a": other}, {"b": one})}) == 4
    assert mapped(a=one, b=other) == mapped(b=other, a=one)
    assert mapped(a=one, b=other) != mapped(a=other, b=one)


def test_a_dataset_may_say_itself_what_it_is() -> None:
    assert told(Listed(fingerprint=lambda: "a")) == told(Listed(fingerprint=lambda: "a", targets=[1] * 6))
    assert told(Listed(fingerprint=lambda: "a")) != told(Listed(fingerprint=lambda: "b"))


@pytest.mark.parametrize("name", ["targets", "labels"])
def test_other_datasets_are_told_by_their_labels_without_being_read(name: str) -> None:
    kinds = [[0, 1, 2, 0, 1, 2], (0, 1, 2, 0, 1, 2), np.arange(6) % 3, LABELS]
    assert len({told(Listed(**{name: labels}))["hash"] for labels in kinds}) == 1
    assert told(Listed(**{name: LABELS})) != told(Listed(**{name: LABELS.roll(1)}))


@pytest.mark.parametrize("labels", [["a"] * 6, [1, 2], None, "abcdef", [[1], [1, 2], 3, 4, 5, 6]])
def test_labels_that_are_no_numbers_count_for_nothing(labels: Any) -> None:
    assert told(Listed(targets=labels)) == told(Listed())
