"""What travels beside images and labels because a plugin asks for it: maps, and further augmentations."""

from __future__ import annotations

import attrs
import pytest
import torch

from mixcore.data.loader import build_eval_loader, build_train_loader
from mixcore.errors import DataError
from mixcore.ops.augment import CropFlip
from mixcore.types import Data, Resident, Task

CPU = torch.device("cpu")
TASK = Task(num_classes=5, in_channels=3, image_size=(8, 8), mean=(0.0,) * 3, std=(1.0,) * 3)
IMAGES = torch.randint(0, 256, (50, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


class Still:
    """An augmentation that knows nothing of maps."""

    draws = 1

    def __call__(self, images, uniforms):
        return images


def resident(**changes):
    """The map "first" is the first channel of the images, so that it can be seen to move with them."""
    maps = {"first": IMAGES[:, :1].clone(), "other": IMAGES[:, 1:]}
    one = Resident(images=IMAGES, labels=torch.arange(50) % 5, augment=CropFlip(padding=2, mode="constant"), maps=maps)
    return attrs.evolve(one, **changes)


def train_loader(train, **changes):
    settings = {"batch_size": 8, "workers": 0, "drop_last": True, "seed": 1, "rank": 0, "world": 1}
    data = Data(train=train, validation=train, task=TASK)
    return build_train_loader(data, **{**settings, "device": CPU, "channels_last": False, **changes})


def test_maps_move_as_the_images_do_and_come_as_shares():
    batches = list(train_loader(resident(), maps=("first",)).epoch(1))
    for batch in batches:
        assert set(batch.maps) == {"first"}
        assert batch.maps["first"].dtype == torch.float32
        torch.testing.assert_close(batch.maps["first"], batch.images[:, :1])
    still = IMAGES[batches[0].index].float() / 255
    assert not torch.allclose(batches[0].images, still)  # the images did move


def test_what_nobody_asks_for_is_not_there_and_asking_changes_no_image():
    plain = list(train_loader(resident()).epoch(2))
    asked = list(train_loader(resident(), maps=("first", "other"), augmentations=2).epoch(2))
    for one, other in zip(plain, asked, strict=True):
        assert one.maps == {}
        assert one.augmented == ()
        assert torch.equal(one.images, other.images)
        assert torch.equal(one.labels, other.labels)


@pytest.mark.parametrize("world", [1, 2])
def test_further_augmentations_are_of_the_same_rows_by_other_draws(world):
    whole = next(iter(train_loader(resident(), augmentations=2).epoch(0)))
    parts = [
        next(iter(train_loader(resident(), augmentations=2, rank=rank, world=world).epoch(0))) for rank in range(world)
    ]
    first, second = whole.augmented
    assert not torch.equal(first, whole.images)
    assert not torch.equal(first, second)
    assert torch.equal(second, torch.cat([part.augmented[1] for part in parts]))
    flipped = resident(augment=CropFlip(flip=0.5))
    batch = next(iter(train_loader(flipped, augmentations=1).epoch(0)))
    for image, again in zip(batch.images, batch.augmented[0], strict=True):
        assert torch.equal(image, again) or torch.equal(image.flip(2), again)


def test_further_augmentations_have_memory_of_their_own():
    batch = next(iter(train_loader(resident(augment=None), augmentations=1).epoch(0)))
    batch.images.zero_()
    assert batch.augmented[0].any()


def test_an_augmentation_that_cannot_move_maps_is_refused_only_where_maps_are_wanted():
    train_loader(resident(augment=Still()))
    with pytest.raises(DataError, match=r"Still, which cannot move maps \(first\).*on_maps"):
        train_loader(resident(augment=Still()), maps=("first",))


@pytest.mark.parametrize("wrong", [IMAGES[:, :1].float(), IMAGES[:40], IMAGES[:, :, :4], IMAGES[:, 0]])
def test_maps_that_are_not_of_the_images_are_refused(wrong):
    with pytest.raises(DataError, match=r"the map 'first' of the training set is .*; expected uint8 \[50,c,8,8\]"):
        train_loader(resident(maps={"first": wrong}))


def test_evaluation_batches_have_neither():
    data = Data(train=resident(), validation=resident(), task=TASK)
    settings = {"batch_size": 8, "workers": 0, "rank": 0, "world": 1, "device": CPU, "channels_last": False}
    batch = next(iter(build_eval_loader(data, **settings).epoch(0)))
    assert batch.maps == {}
    assert batch.augmented == ()
