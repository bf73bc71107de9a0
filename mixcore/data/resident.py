"""Loaders for sets that fit in memory: decoded once, kept on the device, augmented there as whole batches."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from mixcore.data.foreign import exits_named
from mixcore.data.sampling import Batches
from mixcore.data.transfer import InputImages
from mixcore.ops.draws import send
from mixcore.rng import keyed_generator
from mixcore.types import Batch, Resident

__all__ = ["ResidentEvalLoader", "ResidentTrainLoader"]


class ResidentTrainLoader:
    """Batches of a Resident in a keyed order, augmented on `device`."""

    def __init__(self, resident: Resident, batches: Batches, inputs: InputImages, device: torch.device) -> None:
        self.images, self.labels = resident.images.to(device), resident.labels.to(device)
        self.augment = resident.augment
        self.batches, self.inputs, self.device = batches, inputs, device

    def __len__(self) -> int:
        return len(self.batches)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """This process's share of batches start, start + 1, ... of the epoch, with `index`."""
        order = send(self.batches.order(epoch), self.device)
        for iteration in range(start, len(self)):
            own = self.batches.own_positions(iteration)
            samples = order[own.start : own.stop : own.step]
            images = self.images.index_select(0, samples)
            if self.augment is not None:
                with exits_named(self.augment, "the training set's augmentation"):
                    images = self.augment(images, self._uniforms(epoch, iteration, self.augment.draws))
            labels = self.labels.index_select(0, samples)
            yield Batch(images=self.inputs(images), labels=labels, index=samples)

    def _uniforms(self, epoch: int, iteration: int, draws: int) -> Tensor:
        """[N,draws] of this process's images, out of one draw for the batch of all processes."""
        positions = self.batches.positions(iteration)
        count = positions.stop - positions.start
        rng = keyed_generator(self.batches.seed, epoch, iteration, "augment")
        return send(torch.rand(count, draws, generator=rng)[self.batches.share(count)], self.device)


class ResidentEvalLoader:
    """Batches of a Resident in its own order, without augmentation: `shares` are this process's."""

    def __init__(self, resident: Resident, shares: list[range], inputs: InputImages, device: torch.device) -> None:
        self.images, self.labels = resident.images.to(device), resident.labels.to(device)
        self.shares, self.inputs = shares, inputs

    def __len__(self) -> int:
        return len(self.shares)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:  # noqa: ARG002 one order for all
        """This process's batches from `start` on."""
        for share in self.shares[start:]:
            rows = slice(share.start, share.stop)
            yield Batch(images=self.inputs(self.images[rows]), labels=self.labels[rows])
