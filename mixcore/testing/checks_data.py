"""Checks of a data set: what its batches are, that its splits differ, and that it can be learnt from."""

from __future__ import annotations

from itertools import islice

import torch
from torch import Tensor, nn

from mixcore.api import Data, Resident, Task
from mixcore.data.loader import Loader, build_eval_loader, build_train_loader
from mixcore.testing.expect import expect
from mixcore.testing.fakes import TinyConvNet
from mixcore.testing.harness import Harness

__all__ = ["batches_fit_the_task", "epochs_repeat", "splits_differ", "two_steps_on_it"]

BATCH = 4


def _data(harness: Harness) -> Data:
    return harness.owner(harness.plugins()).build_data()


def _loaders(data: Data, device: torch.device) -> dict[str, Loader]:
    return {
        "training": build_train_loader(
            data,
            batch_size=BATCH,
            workers=0,
            drop_last=True,
            seed=0,
            rank=0,
            world=1,
            device=device,
            channels_last=False,
        ),
        "validation": build_eval_loader(
            data, batch_size=BATCH, workers=0, rank=0, world=1, device=device, channels_last=False
        ),
    }


def batches_fit_the_task(harness: Harness) -> None:
    """Batches of both splits have the task's shape and kind of labels, and finite float32 images."""
    data = _data(harness)
    task = data.task
    shape = [BATCH, task.in_channels, *task.image_size]
    for split, loader in _loaders(data, harness.device).items():
        for images, labels in islice(loader.epoch(0), 2):
            found = f"{images.dtype} {list(images.shape)}"
            expect(images.dtype == torch.float32, f"{split} images are {found}, expected float32")
            expect(list(images.shape[1:]) == shape[1:], f"{split} images are {found}, the task says {shape[1:]}")
            expect(bool(images.isfinite().all()), f"{split} images are not finite")
            _expect_labels(labels, task, split)


def _expect_labels(labels: Tensor, task: Task, split: str) -> None:
    low, high, classes = labels.min().item(), labels.max().item(), task.num_classes
    if task.label_kind == "class":
        expect(labels.dtype == torch.int64, f"{split} labels are {labels.dtype}, expected int64")
        expect(low >= 0 and high < classes, f"{split} labels lie in {low}..{high}, the task has {classes} classes")
    else:
        expect(labels.is_floating_point(), f"{split} labels are {labels.dtype}, expected floating point")
        expect(labels.shape[1:] == (classes,), f"{split} labels are {list(labels.shape)} of {classes} classes")
    if task.label_kind == "soft":
        far = (labels.sum(1) - 1).abs().max().item()
        expect(far < 1e-4, f"rows of soft {split} labels sum to up to {far:.4g} away from 1")
    if task.label_kind == "multi_label":
        expect(bool(((labels == 0) | (labels == 1)).all()), f"{split} labels are not all 0 or 1")


def splits_differ(harness: Harness) -> None:
    """No image of the first validation batch is among the first training images."""
    data = _data(harness)
    if isinstance(data.train, Resident) and isinstance(data.validation, Resident):
        some, train = data.validation.images[:BATCH].cpu(), data.train.images[:2000].cpu()
        same_size = some.shape[1:] == train.shape[1:]
        again = same_size and bool((train[:, None] == some[None]).flatten(2).all(2).any())
        expect(not again, "a validation image is a training image too")


def epochs_repeat(harness: Harness) -> None:
    """Built twice, the first batch of an epoch is the same bit for bit; another epoch has another order."""
    first, second = (_loaders(_data(harness), harness.device)["training"] for _ in range(2))
    images, labels = next(iter(first.epoch(0)))
    again, same = next(iter(second.epoch(0)))
    expect(torch.equal(images, again) and torch.equal(labels, same), "the same seed and epoch gave another first batch")
    other, _ = next(iter(first.epoch(1)))
    expect(not torch.equal(images, other), "epoch 1 begins with the same batch as epoch 0")


def two_steps_on_it(harness: Harness) -> None:
    """A tiny network takes two optimizer steps on it and its loss stays finite."""
    data = _data(harness)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = TinyConvNet(data.task.num_classes, data.task.in_channels).to(harness.device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    for images, labels in islice(_loaders(data, harness.device)["training"].epoch(0), 2):
        logits = model(images)
        criterion = nn.functional.cross_entropy if data.task.label_kind in ("class", "soft") else nn.functional.mse_loss
        loss = criterion(logits, labels)
        expect(bool(loss.isfinite()), f"the loss is {loss.item()}")
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
