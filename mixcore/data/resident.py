"""Loaders for sets that fit in memory: decoded once, kept on the device, augmented there as whole batches."""

from __future__ import annotations

from collections.abc import Collection, Iterator

import torch
from torch import Tensor

from mixcore.data.foreign import exits_named, named
from mixcore.data.sampling import Batches
from mixcore.data.transfer import InputImages, as_shares
from mixcore.errors import DataError
from mixcore.ops.draws import send
from mixcore.rng import keyed_generator
from mixcore.types import Batch, Resident

__all__ = ["ResidentEvalLoader", "ResidentTrainLoader"]


class ResidentTrainLoader:
    """Batches of a Resident in a keyed order, augmented on `device`.

    Each has `augmentations` further ones, and of the maps those named. Raises DataError where the Resident's augment
    cannot move maps.
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
        self.augment, self.augmentations = resident.augment, augmentations
        self.maps = {name: resident.maps[name].to(device) for name in maps}
        if maps and self.augment is not None and not hasattr(self.augment, "on_maps"):
            raise DataError(
                f"the training set's augmentation is a {named(self.augment)}, which cannot move maps "
                f"({', '.join(maps)}) with the images; give it a method on_maps(maps, uniforms), or leave augment out"
            )
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
            labels = self.labels.index_select(0, samples)
            yield Batch(
                images=self.inputs(self._augmented(images, epoch, iteration)),
                labels=labels,
                index=samples,
                maps=self._moved(samples, epoch, iteration),
                augmented=tuple(
                    self.inputs(self._augmented(images, epoch, iteration, number))
                    for number in range(1, self.augmentations + 1)
                ),
            )

    def _augmented(self, images: Tensor, epoch: int, iteration: int, *number: int) -> Tensor:
        """The images, augmented; with the `number` of a further augmentation by other draws."""
        if self.augment is None:
            return images
        with exits_named(self.augment, "the training set's augmentation"):
            return self.augment(images, self._uniforms(epoch, iteration, self.augment.draws, *number))

    def _moved(self, samples: Tensor, epoch: int, iteration: int) -> dict[str, Tensor]:
        """The maps of these samples, moved by the draws of the first augmentation."""
        if not self.maps:
            return {}
        moved = {name: found.index_select(0, samples) for name, found in self.maps.items()}
        if self.augment is not None:
            uniforms, move = self._uniforms(epoch, iteration, self.augment.draws), getattr(self.augment, "on_maps")  # noqa: B009
            with exits_named(self.augment, "the training set's augmentation"):
                moved = {name: move(found, uniforms) for name, found in moved.items()}
        return {name: as_shares(found) for name, found in moved.items()}

    def _uniforms(self, epoch: int, iteration: int, draws: int, *number: int) -> Tensor:
        """[N,draws] of this process's images, out of one draw for the batch of all processes."""
        positions = self.batches.positions(iteration)
        count = positions.stop - positions.start
        rng = keyed_generator(self.batches.seed, epoch, iteration, "augment", *number)
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
