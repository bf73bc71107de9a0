"""What travels beside images and labels because a plugin asks for it: maps, and further augmentations."""

from __future__ import annotations

import attrs
import pytest
import torch
from torch.utils.data import Dataset

from mixcore.data.loader import build_eval_loader, build_train_loader
from mixcore.data.maps import given_maps
from mixcore.errors import DataError, UnreadableSampleError
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


class Moves(Still):
    """Gives what it is told to, of images and of maps."""

    def __init__(self, images=None, maps=None):
        self.images, self.maps = images or (lambda x: x), maps or (lambda x: x)

    def __call__(self, images, uniforms):
        return self.images(images)

    def on_maps(self, maps, uniforms):
        return self.maps(maps)


@pytest.mark.parametrize(
    ("wrong", "found"),
    [
        (lambda x: None, "a NoneType"),
        (lambda x: x[:3], r"uint8 \[3, 1, 8, 8\] on cpu"),
        (lambda x: x[:, 0], r"uint8 \[8, 8, 8\] on cpu"),
        (lambda x: x[..., :4], r"uint8 \[8, 1, 8, 4\] on cpu"),
        (lambda x: x.repeat(1, 2, 1, 1), r"uint8 \[8, 2, 8, 8\] on cpu"),
        (lambda x: x.long(), r"int64 \[8, 1, 8, 8\] on cpu"),
        (lambda x: x.to("meta"), r"uint8 \[8, 1, 8, 8\] on meta"),
    ],
)
def test_moved_maps_that_are_not_of_the_images_are_refused(wrong, found):
    loader = train_loader(resident(augment=Moves(maps=wrong)), maps=("first",))
    expected = rf"on_maps of .*Moves, gave {found} for the map 'first'; expected uint8 \[8, 1, 8, 8\] on cpu"
    with pytest.raises(DataError, match=expected):
        next(iter(loader.epoch(0)))


def test_maps_have_the_size_of_the_augmented_images():
    half = Moves(images=lambda x: x[..., ::2], maps=lambda x: x[..., ::2])
    batch = next(iter(train_loader(resident(augment=half), maps=("first",)).epoch(0)))
    torch.testing.assert_close(batch.maps["first"], batch.images[:, :1])
    half.maps = lambda x: x
    with pytest.raises(DataError, match=r"\[8, 1, 8, 8\] on cpu for the map 'first'; expected uint8 \[8, 1, 8, 4\]"):
        next(iter(train_loader(resident(augment=half), maps=("first",)).epoch(0)))


@pytest.mark.parametrize("wrong", [lambda x: None, lambda x: x[:3], lambda x: x[:, :1], lambda x: x.long()])
def test_augmented_images_that_are_none_are_refused(wrong):
    with pytest.raises(DataError, match=r"augmentation, a .*Moves, gave .*; expected uint8 \[8,3,H,W\] on cpu"):
        next(iter(train_loader(resident(augment=Moves(images=wrong))).epoch(0)))


def test_an_error_of_an_augmentation_says_whose_it_is():
    with pytest.raises(ZeroDivisionError) as caught:
        next(iter(train_loader(resident(augment=Moves(images=lambda x: 1 / 0))).epoch(0)))
    assert caught.value.__notes__ == [f"in the training set's augmentation, a {__name__}.Moves"]


@pytest.mark.parametrize("draws", [None, -1, 1.5, True])
def test_an_augmentation_without_a_number_of_draws_is_refused(draws):
    wrong = Still()
    wrong.draws = draws
    with pytest.raises(DataError, match=rf"Still, has draws {draws}; expected a class with draws: int"):
        train_loader(resident(augment=wrong))


def test_an_augmentation_that_writes_to_its_images_is_given_them_anew():
    plain, zeroed = (
        next(iter(train_loader(resident(augment=Moves(images=images)), augmentations=2).epoch(0)))
        for images in (lambda x: x.clone().add_(1), lambda x: x.add_(1))
    )
    assert torch.equal(zeroed.images, plain.images)
    assert all(map(torch.equal, zeroed.augmented, plain.augmented))


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


class Triples(Dataset):
    """Images that are moved at random, each with the map "first", its first channel."""

    def __init__(self, broken=(), move=None):
        self.broken, self.move = broken, move or (lambda image: {"first": image[:1]})

    def __len__(self):
        return len(IMAGES)

    def __getitem__(self, index):
        if index in self.broken:
            raise UnreadableSampleError(f"{index} is broken", skip=True)
        image = IMAGES[index].roll(int(torch.randint(8, ())), 2)
        return image, index % 5, self.move(image)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_data_set_of_triples_gives_maps_and_is_read_again_for_further_augmentations(workers):
    plain = list(train_loader(Triples()).epoch(0))
    asked = list(train_loader(Triples(), workers=workers, maps=("first",), augmentations=2).epoch(0))
    for one, other in zip(plain, asked, strict=True):
        assert one.maps == {}
        assert one.augmented == ()
        assert torch.equal(one.images, other.images)
        torch.testing.assert_close(other.maps["first"], other.images[:, :1])
    first, second = asked[0].augmented
    assert not torch.equal(first, second)
    for image, again in zip(asked[0].images, first, strict=True):
        assert any(torch.equal(image.roll(shift, 2), again) for shift in range(8))


def test_a_substitute_has_its_own_maps_and_augmentations():
    loader = train_loader(Triples(broken=(3,)), maps=("first",), augmentations=1, batch_size=50)
    batch = next(iter(loader.epoch(0)))
    assert 3 not in batch.index.tolist()
    assert len(batch.augmented[0]) == len(batch.maps["first"]) == 50
    for image, again in zip(batch.images, batch.augmented[0], strict=True):
        assert any(torch.equal(image.roll(shift, 2), again) for shift in range(8))


@pytest.mark.parametrize(
    ("move", "message"),
    [
        (lambda image: [image], "is a tuple; a data set gives pairs .* or triples"),
        (lambda _: {"depth": 1}, "has the maps depth; a plugin reads 'first'"),
        (lambda image: {"first": image[:, :4]}, r"the map 'first' as uint8 \[3, 4, 8\]; expected a tensor \[c,8,8\]"),
        (lambda image: {"first": image.long()}, r"the map 'first' as int64 \[3, 8, 8\]"),
        (lambda image: {"first": image[: 1 + int(image[0, 0, 0]) % 2]}, "the maps 'first' of one batch are uint8"),
    ],
)
def test_maps_of_samples_that_do_not_fit_are_refused(move, message):
    with pytest.raises(DataError, match=message):
        list(train_loader(Triples(move=move), maps=("first",)).epoch(0))


def test_the_maps_of_a_set_are_known_before_the_first_iteration():
    data = Data(train=Triples(broken=(0,)), validation=resident(), task=TASK)
    before = torch.get_rng_state()
    assert given_maps(data) == ("first",)
    assert torch.equal(before, torch.get_rng_state())
    assert given_maps(attrs.evolve(data, train=resident())) == ("first", "other")
    assert given_maps(attrs.evolve(data, train=[(IMAGES[0], 1)])) == ()
