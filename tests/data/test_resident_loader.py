"""Sets that live on the device."""

from __future__ import annotations

import pytest
import torch

from mixcore.data.loader import build_eval_loader, build_train_loader
from mixcore.errors import DataError
from mixcore.ops.augment import CropFlip
from mixcore.types import Data, Resident, Task

CPU = torch.device("cpu")
TASK = Task(num_classes=5, in_channels=3, image_size=(8, 8), mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4))


def data(count=50, labels=None, augment=True, task=TASK):
    images = torch.randint(0, 256, (count, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(count) % 5 if labels is None else labels
    resident = Resident(images=images, labels=labels, augment=CropFlip(padding=2) if augment else None)
    return Data(train=resident, validation=Resident(images=images, labels=labels), task=task)


def train_loader(given, **changes):
    settings = {"batch_size": 8, "workers": 0, "drop_last": True, "seed": 1, "rank": 0, "world": 1}
    return build_train_loader(given, **{**settings, "device": CPU, "channels_last": False, **changes})


def eval_loader(given, **changes):
    settings = {"batch_size": 8, "workers": 0, "rank": 0, "world": 1, "device": CPU, "channels_last": False}
    return build_eval_loader(given, **{**settings, **changes})


def test_images_are_normalised_per_channel():
    given = data(augment=False)
    images, labels = next(eval_loader(given).epoch(0))
    mean, std = (torch.tensor(values)[:, None, None] for values in (TASK.mean, TASK.std))
    torch.testing.assert_close(images, (given.validation.images[:8] / 255 - mean) / std)
    assert images.dtype == torch.float32
    assert torch.equal(labels, given.validation.labels[:8])


def test_images_and_labels_stay_together():
    given = data(augment=False, labels=torch.arange(50), task=Task(**{**task_fields(), "num_classes": 50}))
    clean = torch.cat([images for images, _ in eval_loader(given).epoch(0)])
    for images, labels in train_loader(given).epoch(3):
        assert torch.equal(images, clean[labels])


def task_fields():
    return {name: getattr(TASK, name) for name in ("num_classes", "in_channels", "image_size", "mean", "std")}


@pytest.mark.parametrize("world", [2, 4])
def test_augmented_batches_are_the_same_on_any_number_of_processes(world):
    given = data()
    shares = [train_loader(given, rank=rank, world=world).epoch(2) for rank in range(world)]
    for whole, *parts in zip(train_loader(given).epoch(2), *shares, strict=True):
        assert torch.equal(whole.images, torch.cat([images for images, _ in parts]))
        assert torch.equal(whole.labels, torch.cat([labels for _, labels in parts]))


def test_starting_inside_an_epoch_gives_the_rest_of_it():
    loader = train_loader(data())
    whole = list(loader.epoch(4))
    assert len(whole) == len(loader) == 6
    rest = list(loader.epoch(4, start=2))
    assert len(rest) == 4
    assert len(list(loader.epoch(4, start=2, stop=5))) == 3
    assert all(
        torch.equal(a, b) for old, new in zip(whole[2:], rest, strict=True) for a, b in zip(old, new, strict=True)
    )


def test_epochs_are_augmented_anew_and_global_generators_untouched():
    given = data()
    before = torch.get_rng_state()
    first, second = (torch.cat([images for images, _ in train_loader(given).epoch(e)]) for e in (0, 1))
    assert not torch.equal(first, second)
    assert torch.equal(before, torch.get_rng_state())


def test_the_set_itself_is_never_written_to():
    given = data(augment=False)
    before = given.train.images.clone()
    for images, _ in (*train_loader(given).epoch(0), *eval_loader(given).epoch(0)):
        images.zero_()
    assert torch.equal(given.train.images, before)


def test_channels_last():
    for loader in (train_loader(data(), channels_last=True), eval_loader(data(), channels_last=True)):
        images, _ = next(loader.epoch(0))
        assert images.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("world", [1, 2, 3, 60])
def test_evaluation_counts_every_image_once(world):
    given = data(count=51, labels=torch.arange(51), task=Task(**{**task_fields(), "num_classes": 51}))
    seen = []
    for rank in range(world):
        loader = eval_loader(given, rank=rank, world=world)
        found = [label for _, labels in loader.epoch(0) for label in labels.tolist()]
        assert len(list(loader.epoch(0))) == len(loader)
        seen += found
    assert sorted(seen) == list(range(51))


@pytest.mark.parametrize("bad", [-1, 5])
def test_labels_out_of_range_are_refused(bad):
    labels = torch.arange(50) % 5
    labels[7] = bad
    for build, where in ((train_loader, "training"), (eval_loader, "validation")):
        with pytest.raises(DataError, match=rf"labels of the {where} set run from .*{bad}.*0\.\.4"):
            build(data(labels=labels))


def test_a_set_that_does_not_fit_its_task_is_refused():
    grey = Task(**{**task_fields(), "in_channels": 1, "mean": (0.5,), "std": (0.2,)})
    with pytest.raises(DataError, match=r"uint8 \[50, 3, 8, 8\]; expected uint8 \[n,1,H,W\]"):
        train_loader(data(task=grey))
    with pytest.raises(DataError, match="50 images and 49 labels"):
        train_loader(data(labels=torch.zeros(49, dtype=torch.int64)))
    with pytest.raises(DataError, match=r"float32 \[50\]; class labels are int64"):
        train_loader(data(labels=torch.zeros(50)))
    with pytest.raises(DataError, match="the training set is empty"):
        train_loader(data(count=0))
    soft = Task(**{**task_fields(), "label_kind": "soft"})
    with pytest.raises(DataError, match=r"kind 'soft' are floating \[N,5\]"):
        train_loader(data(task=soft))
    assert len(train_loader(data(labels=torch.rand(50, 5), task=soft))) == 6


def test_one_value_an_image_may_come_without_a_dimension():
    value = Task(**{**task_fields(), "num_classes": 1, "label_kind": "value"})
    given = data(labels=torch.arange(50.0), task=value)
    assert torch.equal(next(eval_loader(given).epoch(0)).labels, torch.arange(8.0)[:, None])
    assert next(train_loader(given).epoch(0)).labels.shape == (8, 1)
    several = Task(**{**task_fields(), "num_classes": 2, "label_kind": "value"})
    with pytest.raises(DataError, match=r"float32 \[50\]; labels of kind 'value' are floating \[N,2\]"):
        train_loader(data(labels=torch.arange(50.0), task=several))


@pytest.mark.gpu
def test_cuda_batches_equal_those_of_the_cpu():
    given = data()
    for cpu, cuda in zip(
        train_loader(given).epoch(0), train_loader(given, device=torch.device("cuda")).epoch(0), strict=True
    ):
        assert cuda[0].is_cuda
        torch.testing.assert_close(cuda[0].cpu(), cpu[0])
        assert torch.equal(cuda[1].cpu(), cpu[1])
