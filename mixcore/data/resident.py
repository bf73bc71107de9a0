"""Loaders for sets that fit in memory: decoded once, kept on the device, augmented there as whole batches."""

from __future__ import annotations

from collections.abc import Collection, Iterator

import torch
from torch import Tensor

from mixcore.data.augmenting import Augmenting
from mixcore.data.sampling import Batches
from mixcore.data.transfer import InputImages, as_shares
from mixcore.ops.draws import send
from mixcore.rng import keyed_generator
from mixcore.types import Batch, Resident

__all__ = ["ResidentEvalLoader", "ResidentTrainLoader"]


class ResidentTrainLoader:
    """Batches of a Resident in a keyed order, augmented on `device`.

    Each has `augmentations` further ones, and of the maps those named. Raises DataError where the Resident's augment
    cannot move maps, and for a batch of which it makes something else than images and maps.
    """

    def __init__(
        self,
        resident: Resident,
        batches: Batches,
        inputs: InputImages,
        device: torch.device,
        *,
        augmentations: int = 0,
        maps: Collection[str] = (),
    ) -> None:
        self.images, self.labels = resident.images.to(device), resident.labels.to(device)
        self.augment, self.augmentations = Augmenting(resident.augment, maps), augmentations
        self.maps = {name: resident.maps[name].to(device) for name in maps}
        self.batches, self.inputs, self.device = batches, inputs, device

    def __len__(self) -> int:
        return len(self.batches)

    def epoch(self, epoch: int, start: int = 0, stop: int | None = None) -> Iterator[Batch]:
        """This process's share of batches start, start + 1, ... of the epoch, with `index`."""
        order = send(self.batches.order(epoch), self.device)
        for iteration in range(len(self))[start:stop]:
            own = self.batches.own_positions(iteration)
            samples = order[own.start : own.stop : own.step]
            uniforms = self._uniforms(epoch, iteration)
            images = self._augmented(samples, uniforms)
            further = (self._uniforms(epoch, iteration, number) for number in range(1, self.augmentations + 1))
            yield Batch(
                images=self.inputs(images),
                labels=self.labels.index_select(0, samples),
                index=samples,
                maps=self._moved(samples, uniforms, images),
                augmented=tuple(self.inputs(self._augmented(samples, drawn)) for drawn in further),
            )

    def _augmented(self, samples: Tensor, uniforms: Tensor) -> Tensor:
        """The images of these samples, augmented; a copy of their own, which an augmentation may write to."""
        return self.augment.images(self.images.index_select(0, samples), uniforms)

    def _moved(self, samples: Tensor, uniforms: Tensor, images: Tensor) -> dict[str, Tensor]:
        """The maps of these samples, moved as their augmented images were."""
        return {
            name: as_shares(self.augment.map(name, found.index_select(0, samples), uniforms, images))
            for name, found in self.maps.items()
        }

    def _uniforms(self, epoch: int, iteration: int, *number: int) -> Tensor:
        """[N,draws] of this process's images, out of one draw for the batch of all processes.

        With the `number` of a further augmentation they are others.
        """
        positions = self.batches.positions(iteration)
        count = positions.stop - positions.start
        rng = keyed_generator(self.batches.seed, epoch, iteration, "augment", *number)
        return send(torch.rand(count, self.augment.draws, generator=rng)[self.batches.share(count)], self.device)


class ResidentEvalLoader:
    """Batches of a Resident in its own order, without augmentation: `shares` are this process's."""

    def __init__(self, resident: Resident, shares: list[range], inputs: InputImages, device: torch.device) -> None:
        self.images, self.labels = resident.images.to(device), resident.labels.to(device)
        self.shares, self.inputs = shares, inputs

    def __len__(self) -> int:
        return len(self.shares)

    def epoch(self, epoch: int, start: int = 0, stop: int | None = None) -> Iterator[Batch]:  # noqa: ARG002 one order
        """This process's batches from `start` on."""
        for share in self.shares[start:stop]:
            rows = slice(share.start, share.stop)
            yield Batch(images=self.inputs(self.images[rows]), labels=self.labels[rows])
