"""Loaders for sets that are read sample by sample, by worker processes or by this one."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator
from typing import Any

import torch
from torch.utils.data import Dataset

from mixcore.data.checks import check_labels
from mixcore.data.processes import WorkerProcesses
from mixcore.data.randomness import preserved_generators
from mixcore.data.samples import Fetched, Key, KeyedSamples
from mixcore.data.sampling import Batches
from mixcore.data.transfer import InputImages, as_shares
from mixcore.errors import UnreadableSampleError
from mixcore.ops.draws import send
from mixcore.rng import keyed_seed
from mixcore.types import Batch, Task

__all__ = ["WorkerEvalLoader", "WorkerTrainLoader"]

logger = logging.getLogger("mixcore")

NAMED = 5
"""Files that a message about unreadable samples names."""


class _Fetcher:
    """Batches of keyed samples, from worker processes or from this one, on the device and checked."""

    def __init__(
        self,
        dataset: Dataset[Any],
        task: Task,
        inputs: InputImages,
        *,
        workers: int,
        device: torch.device,
        training: bool,
        maps: Collection[str] = (),
    ) -> None:
        self.where = "the training set" if training else "the validation set"
        self.samples = KeyedSamples(dataset, task, self.where, substitute=training, maps=maps)
        self.task, self.inputs, self.device, self.training = task, inputs, device, training
        self.unreadable: dict[str, None] = {}
        self.processes = (
            WorkerProcesses(self.samples, self.where, workers=workers, persistent=training, device=device)
            if workers
            else None
        )

    def batches(self, keys: Iterator[list[Key]]) -> Iterator[Batch]:
        """Batches on the device; those of training tell their rows' `index`.

        Raises UnreadableSampleError or DataError for samples that do not fit, MixcoreError where a worker process died.
        """
        known = len(self.unreadable)
        for fetched in self._fetch(keys):
            if fetched.refused:
                raise UnreadableSampleError(_describe(fetched.refused, "cannot be used", self.where))
            self.unreadable.update(dict.fromkeys(fetched.skipped))
            if fetched.images is None or fetched.labels is None or fetched.index is None:
                continue
            check_labels(fetched.labels, self.task, self.where)
            images, labels = self.inputs(send(fetched.images, self.device)), send(fetched.labels, self.device)
            index = send(fetched.index, self.device) if self.training else None
            maps = {name: as_shares(send(found, self.device)) for name, found in fetched.maps.items()}
            augmented = tuple(self.inputs(send(found, self.device)) for found in fetched.augmented)
            yield Batch(images=images, labels=labels, index=index, maps=maps, augmented=augmented)
        if len(self.unreadable) > known:
            logger.warning("%s", _describe(list(self.unreadable), "cannot be read and were skipped", self.where))

    def _fetch(self, keys: Iterator[list[Key]]) -> Iterator[Fetched]:
        if self.processes is not None:
            yield from self.processes.batches(keys)
            return
        for batch in keys:
            with preserved_generators():
                fetched = self.samples.__getitems__(batch)
            yield fetched


def _describe(messages: list[str], verdict: str, where: str) -> str:
    lines = [f"{len(messages)} sample{'' if len(messages) == 1 else 's'} of {where} {verdict}:", *messages[:NAMED]]
    if len(messages) > NAMED:
        lines.append(f"and {len(messages) - NAMED} more")
    return "\n  ".join(lines)


class WorkerTrainLoader:
    """Batches of a data set in a keyed order, its random transforms keyed by the position in the epoch."""

    def __init__(
        self,
        dataset: Dataset[Any],
        task: Task,
        batches: Batches,
        inputs: InputImages,
        *,
        workers: int,
        device: torch.device,
        augmentations: int = 0,
        maps: Collection[str] = (),
    ) -> None:
        self._batches, self._augmentations = batches, augmentations
        self._fetcher = _Fetcher(dataset, task, inputs, workers=workers, device=device, training=True, maps=maps)

    def __len__(self) -> int:
        return len(self._batches)

    def epoch(self, epoch: int, start: int = 0, stop: int | None = None) -> Iterator[Batch]:
        """This process's share of batches start, start + 1, ... of the epoch, with `index`."""
        return self._fetcher.batches(self._keys(epoch, range(len(self))[start:stop]))

    def _keys(self, epoch: int, iterations: range) -> Iterator[list[Key]]:
        order, seed = self._batches.order(epoch), self._batches.seed
        further = range(1, self._augmentations + 1)
        for iteration in iterations:
            positions = self._batches.own_positions(iteration)
            samples = order[positions.start : positions.stop : positions.step].tolist()
            yield [
                (
                    index,
                    keyed_seed(seed, epoch, position, "sample"),
                    *(keyed_seed(seed, epoch, position, "sample", number) for number in further),
                )
                for index, position in zip(samples, positions, strict=True)
            ]


class WorkerEvalLoader:
    """Batches of a data set in its own order: `shares` are this process's."""

    def __init__(
        self,
        dataset: Dataset[Any],
        task: Task,
        shares: list[range],
        inputs: InputImages,
        *,
        workers: int,
        device: torch.device,
    ) -> None:
        self._shares = shares
        self._fetcher = _Fetcher(dataset, task, inputs, workers=workers, device=device, training=False)

    def __len__(self) -> int:
        return len(self._shares)

    def epoch(self, epoch: int, start: int = 0, stop: int | None = None) -> Iterator[Batch]:  # noqa: ARG002 one order
        """This process's batches from `start` on, without unreadable samples."""
        shares = self._shares[start:stop]
        return self._fetcher.batches([(index, keyed_seed("validation", index)) for index in share] for share in shares)
