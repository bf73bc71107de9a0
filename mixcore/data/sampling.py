"""Which samples are in which batch, and which process sees which of them.

Order and batches are the same on any number of processes: a process takes its share of each batch.
"""

from __future__ import annotations

import logging

import attrs
import torch
from torch import Tensor

from mixcore.errors import ConfigError, DataError
from mixcore.rng import keyed_generator

__all__ = ["Batches", "evaluation_share"]

logger = logging.getLogger("mixcore")

REPEATED_LENGTH_MULTIPLE = 256
"""An epoch of repeated augmentation has the data set's length rounded down to this multiple (as timm's sampler)."""
FEWEST_PER_PROCESS = 2
"""BatchNorm in train mode needs two samples."""


@attrs.frozen(kw_only=True)
class Batches:
    """The batches of every epoch over `samples` training samples, seen by process `rank` of `world`.

    `batch_size` counts over all processes. With `repeats` r > 1 every image of the shuffled order comes r times in a
    row, the epoch's length stays, and the samples of a batch are dealt to the processes in turn, so that copies of one
    image fall on different processes; without, a process takes a run of consecutive samples.
    Raises ConfigError for a batch size that the processes cannot share equally or that leaves no batch at all.
    """

    samples: int
    batch_size: int
    drop_last: bool
    seed: int
    rank: int = 0
    world: int = 1
    repeats: int = 1

    def __attrs_post_init__(self) -> None:
        if self.batch_size < 1 or self.batch_size % self.world:
            raise ConfigError(
                f"data.batch_size = {self.batch_size} cannot be shared by {self.world} processes equally; it counts "
                f"over all processes, so set it to a multiple of {self.world}, such as "
                f"{max(1, round(self.batch_size / self.world)) * self.world}"
            )
        if len(self) == 0:
            raise ConfigError(
                f"an epoch of {self.length} training samples has no whole batch of data.batch_size = "
                f"{self.batch_size}; set data.batch_size to at most {self.length // self.world * self.world}"
            )
        rest = self.length % self.batch_size
        if rest and not self.drop_last and not self._keeps_rest and self.rank == 0:
            logger.warning(
                "the last batch of every epoch has %d sample%s for %d process%s; it is dropped, because BatchNorm "
                "needs at least %d samples on each",
                rest,
                "" if rest == 1 else "s",
                self.world,
                "" if self.world == 1 else "es",
                FEWEST_PER_PROCESS,
            )

    @property
    def length(self) -> int:
        """Samples in the epoch's order, before an incomplete last batch is dropped."""
        whole = self.samples // REPEATED_LENGTH_MULTIPLE * REPEATED_LENGTH_MULTIPLE
        return whole if self.repeats > 1 and whole else self.samples

    @property
    def _keeps_rest(self) -> bool:
        rest = self.length % self.batch_size
        return not self.drop_last and rest // self.world >= FEWEST_PER_PROCESS

    def __len__(self) -> int:
        """Batches per epoch."""
        return self.length // self.batch_size + self._keeps_rest

    def order(self, epoch: int) -> Tensor:
        """int64 [length]: the sample at each position of the epoch, the same on every process."""
        order = torch.randperm(self.samples, generator=keyed_generator(self.seed, epoch, "order"))
        if self.repeats > 1:
            order = order[torch.arange(self.length) // self.repeats]
        return order

    def positions(self, iteration: int) -> slice:
        """Positions in the epoch's order of batch `iteration`, over all processes."""
        start = iteration * self.batch_size
        return slice(start, min(start + self.batch_size, self.length))

    def share(self, count: int) -> slice:
        """Which of the `count` samples of a batch this process takes."""
        if self.repeats > 1:
            return slice(self.rank, count, self.world)
        return slice(count * self.rank // self.world, count * (self.rank + 1) // self.world)

    def own_positions(self, iteration: int) -> range:
        """Positions in the epoch's order of this process's share of batch `iteration`."""
        batch = self.positions(iteration)
        positions = range(batch.start, batch.stop)
        return positions[self.share(len(positions))]


def evaluation_share(samples: int, batch_size: int, rank: int, world: int) -> list[range]:
    """Batches of process `rank`: consecutive samples, over all processes each of `samples` exactly once.

    `batch_size` counts over all processes; a process with no sample gets no batch. Raises DataError where there is no
    sample at all.
    """
    if samples == 0:
        raise DataError("the validation set is empty; a run needs at least one validation image")
    own = range(samples * rank // world, samples * (rank + 1) // world)
    size = max(1, batch_size // world)
    return [own[start : start + size] for start in range(0, len(own), size)]
