"""Whole batches of a data set, as a worker process or this one makes them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import attrs
import torch
from torch import Tensor
from torch.utils.data import Dataset

from mixcore.data.checks import check_image, check_label
from mixcore.data.foreign import exit_words, length_of
from mixcore.data.randomness import seed_generators
from mixcore.errors import DataError, UnreadableSampleError
from mixcore.types import Task

__all__ = ["Fetched", "Key", "KeyedSamples"]

MOST_SUBSTITUTES = 100
"""Unreadable samples in a row before the data set itself is taken to be unreadable."""

Key: TypeAlias = tuple[int, int]
"""Sample and seed of its transforms."""


@attrs.define(eq=False)
class Fetched:
    """A batch as a worker hands it over; errors travel as text, because their own classes would lose the message."""

    images: Tensor | None = None
    labels: Tensor | None = None
    index: Tensor | None = None
    """[N] int64 number of each sample that was read; a substitute has its own."""
    skipped: list[str] = attrs.field(factory=list)
    refused: list[str] = attrs.field(factory=list)

    def pin_memory(self) -> Fetched:
        """Called by the DataLoader's pinning thread."""
        if self.images is not None and self.labels is not None and self.index is not None:
            self.images, self.labels = self.images.pin_memory(), self.labels.pin_memory()
            self.index = self.index.pin_memory()
        return self


class KeyedSamples(Dataset[Any]):
    """Whole batches of a data set, each sample made under its own seed.

    A sample that says so is skipped: with `substitute` the next readable one takes its place, so that batches keep
    their size; otherwise the batch is shorter.
    """

    def __init__(self, dataset: Dataset[Any], task: Task, where: str, *, substitute: bool) -> None:
        self.dataset, self.task, self.substitute = dataset, task, substitute
        self.samples = length_of(dataset, where)

    def __getitems__(self, keys: Sequence[Key]) -> Fetched:
        fetched = Fetched()
        read = [found for index, seed in keys if (found := self._sample(index, seed, fetched)) is not None]
        shapes = sorted({tuple(image.shape) for _, image, _ in read})
        if len(shapes) > 1:
            fetched.refused.append(
                f"images of one batch have the shapes {', '.join(str(list(shape)) for shape in shapes)}; the data "
                "plugin's transforms must bring all images to one size"
            )
        if read and not fetched.refused:
            fetched.images = torch.stack([image for _, image, _ in read])
            fetched.labels = torch.stack([label for _, _, label in read])
            fetched.index = torch.tensor([number for number, _, _ in read])
        return fetched

    def _sample(self, index: int, seed: int, fetched: Fetched) -> tuple[int, Tensor, Tensor] | None:
        for step in range(min(self.samples, MOST_SUBSTITUTES) if self.substitute else 1):
            position = (index + step) % self.samples
            seed_generators(seed)
            try:
                return position, *self._checked(self.dataset[position], f"sample {position}")
            except UnreadableSampleError as error:
                if not error.skip:
                    fetched.refused.append(str(error))
                    return None
                fetched.skipped.append(str(error))
            except DataError as error:
                fetched.refused.append(str(error))
                return None
            except SystemExit as error:
                fetched.refused.append(f"sample {position}: {exit_words(self.dataset, error)}")
                return None
        if self.substitute:
            fetched.refused.append(f"no sample from {index} on can be read; last: {fetched.skipped[-1]}")
        return None

    def _checked(self, sample: object, where: str) -> tuple[Tensor, Tensor]:
        if not isinstance(sample, tuple | list) or len(sample) != 2:
            raise DataError(f"{where} is a {type(sample).__name__}; a data set gives pairs (image, label)")
        return check_image(sample[0], self.task, where), check_label(sample[1], self.task, where)
