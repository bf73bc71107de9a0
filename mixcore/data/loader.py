"""The loaders of a run: one interface over sets that live on the device and sets that workers read."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Protocol

import torch

from mixcore.data.checks import check_resident, check_task
from mixcore.data.foreign import length_of
from mixcore.data.resident import ResidentEvalLoader, ResidentTrainLoader
from mixcore.data.sampling import Batches, evaluation_share
from mixcore.data.transfer import InputImages
from mixcore.data.workers import WorkerEvalLoader, WorkerTrainLoader
from mixcore.types import Batch, Data, Resident

__all__ = ["Loader", "build_eval_loader", "build_train_loader"]


class Loader(Protocol):
    """Batches of one process, on its device."""

    def __len__(self) -> int:
        """Iterations per epoch."""
        ...

    def epoch(self, epoch: int, start: int = 0, stop: int | None = None) -> Iterator[Batch]:
        """Batches start, start + 1, ... of the epoch, to its end or to the one before `stop`: images float32 [N,C,H,W],
        normalised, labels, and while training the rows' `index`.

        Starting inside an epoch gives exactly the batches that the whole epoch gives from there on.
        """
        ...


def build_train_loader(
    data: Data,
    *,
    batch_size: int,
    workers: int,
    drop_last: bool,
    seed: int,
    rank: int,
    world: int,
    device: torch.device,
    channels_last: bool,
    augmentations: int = 0,
    maps: Collection[str] = (),
) -> Loader:
    """Loader of the training set for process `rank` of `world`; `batch_size` counts over all processes.

    Batches have `augmentations` further augmentations, and of the training set's maps those named.
    `workers` processes read a Dataset (0: this process reads); a Resident needs none. Raises ConfigError for a batch
    size that cannot be shared equally or is larger than the set, DataError for images, labels or a
    task that do not fit.
    """
    check_task(data.task)
    inputs = InputImages(data.task, device, channels_last=channels_last)
    train = data.train
    if isinstance(train, Resident):
        train = check_resident(train, data.task, "the training set")
    batches = Batches(
        samples=length_of(train, "the training set"),
        batch_size=batch_size,
        drop_last=drop_last,
        seed=seed,
        rank=rank,
        world=world,
        repeats=data.repeats,
    )
    if isinstance(train, Resident):
        return ResidentTrainLoader(train, batches, inputs, device, augmentations=augmentations, maps=maps)
    return WorkerTrainLoader(
        train,
        data.task,
        batches,
        inputs,
        workers=workers,
        device=device,
        augmentations=augmentations,
        maps=maps,
    )


def build_eval_loader(
    data: Data, *, batch_size: int, workers: int, rank: int, world: int, device: torch.device, channels_last: bool
) -> Loader:
    """Loader of the validation set: over all processes every sample exactly once, whatever its size.

    `batch_size` counts over all processes and need not be a multiple of them. Raises DataError for an empty set, and
    for images or labels that do not fit.
    """
    check_task(data.task)
    inputs = InputImages(data.task, device, channels_last=channels_last)
    validation = data.validation
    if isinstance(validation, Resident):
        validation = check_resident(validation, data.task, "the validation set")
    shares = evaluation_share(length_of(validation, "the validation set"), batch_size, rank, world)
    if isinstance(validation, Resident):
        return ResidentEvalLoader(validation, shares, inputs, device)
    return WorkerEvalLoader(validation, data.task, shares, inputs, workers=workers, device=device)
