"""Whole batches of a data set, as a worker process or this one makes them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, TypeAlias

import attrs
import torch
from torch import Tensor
from torch.utils.data import Dataset

from mixcore.data.checks import check_image, check_label, check_sample_maps, has_maps, layout
from mixcore.data.foreign import exit_words, length_of
from mixcore.data.randomness import seed_generators
from mixcore.errors import DataError, UnreadableSampleError
from mixcore.types import Task

__all__ = ["Fetched", "Key", "KeyedSamples"]

MOST_SUBSTITUTES = 100
"""Unreadable samples in a row before the data set itself is taken to be unreadable."""

Key: TypeAlias = tuple[int, *tuple[int, ...]]
"""Sample, seed of its transforms, and a seed for each further augmentation of it."""


@attrs.define(eq=False)
class Fetched:
    """A batch as a worker hands it over; errors travel as text, because their own classes would lose the message."""

    images: Tensor | None = None
    labels: Tensor | None = None
    index: Tensor | None = None
    """[N] int64 number of each sample that was read; a substitute has its own."""
    maps: dict[str, Tensor] = attrs.field(factory=dict)
    augmented: tuple[Tensor, ...] = ()
    skipped: list[str] = attrs.field(factory=list)
    refused: list[str] = attrs.field(factory=list)

    def pin_memory(self) -> Fetched:
        """Called by the DataLoader's pinning thread."""
        if self.images is not None and self.labels is not None and self.index is not None:
            self.images, self.labels = self.images.pin_memory(), self.labels.pin_memory()
            self.index = self.index.pin_memory()
            self.maps = {name: found.pin_memory() for name, found in self.maps.items()}
            self.augmented = tuple(found.pin_memory() for found in self.augmented)
        return self


@attrs.frozen(eq=False)
class _Sample:
    """One sample as it was read: its number, image, label and maps, and further augmentations of the image."""

    number: int
    image: Tensor
    label: Tensor
    maps: Mapping[str, Tensor]
    augmented: tuple[Tensor, ...] = ()


class KeyedSamples(Dataset[Any]):
    """Whole batches of a data set, each sample made under its own seed.

    A sample that says so is skipped: with `substitute` the next readable one takes its place, so that batches keep
    their size; otherwise the batch is shorter. Of the maps of a sample those named are kept.
    """

    def __init__(
        self, dataset: Dataset[Any], task: Task, where: str, *, substitute: bool, maps: Collection[str] = ()
    ) -> None:
        self.dataset, self.task, self.substitute, self.maps = dataset, task, substitute, tuple(maps)
        self.samples = length_of(dataset, where)

    def __getitems__(self, keys: Sequence[Key]) -> Fetched:
        fetched = Fetched()
        read = [found for index, *seeds in keys if (found := self._sample(index, seeds, fetched)) is not None]
        shapes = sorted({tuple(image.shape) for one in read for image in (one.image, *one.augmented)})
        if len(shapes) > 1:
            fetched.refused.append(
                f"images of one batch have the shapes {', '.join(str(list(shape)) for shape in shapes)}; the data "
                "plugin's transforms must bring all images to one size"
            )
        for name in self.maps:
            layouts = {layout(one.maps[name]) for one in read}
            if len(layouts) > 1:
                fetched.refused.append(f"the maps {name!r} of one batch are {', '.join(sorted(layouts))}; expected one")
        if read and not fetched.refused:
            fetched.images = torch.stack([one.image for one in read])
            fetched.labels = torch.stack([one.label for one in read])
            fetched.index = torch.tensor([one.number for one in read])
            fetched.maps = {name: torch.stack([one.maps[name] for one in read]) for name in self.maps}
            fetched.augmented = tuple(map(torch.stack, zip(*(one.augmented for one in read), strict=True)))
        return fetched

    def _sample(self, index: int, seeds: Sequence[int], fetched: Fetched) -> _Sample | None:
        for step in range(min(self.samples, MOST_SUBSTITUTES) if self.substitute else 1):
            position = (index + step) % self.samples
            try:
                first, *more = [self._read(position, seed) for seed in seeds]
                return attrs.evolve(first, augmented=tuple(one.image for one in more))
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

    def _read(self, position: int, seed: int) -> _Sample:
        seed_generators(seed)
        sample, where = self.dataset[position], f"sample {position}"
        if not isinstance(sample, tuple | list) or not (len(sample) == 2 or has_maps(sample)):
            raise DataError(
                f"{where} is a {type(sample).__name__}; a data set gives pairs (image, label) or triples "
                "(image, label, maps by name)"
            )
        image, label = check_image(sample[0], self.task, where), check_label(sample[1], self.task, where)
        maps = sample[2] if has_maps(sample) else {}
        return _Sample(position, image, label, check_sample_maps(maps, self.maps, image, where))
