"""Loaders for sets that are read sample by sample, by worker processes or by this one."""

from __future__ import annotations

import atexit
import logging
import multiprocessing
import os
import signal
from collections.abc import Iterator, Sequence
from types import FrameType
from typing import Any, TypeAlias

import attrs
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from mixcore.data.checks import check_image, check_labels
from mixcore.data.randomness import preserved_generators, seed_generators
from mixcore.data.sampling import Batches
from mixcore.data.transfer import InputImages, to_device
from mixcore.errors import DataError, UnreadableSampleError
from mixcore.rng import keyed_generator, keyed_seed
from mixcore.types import Task

__all__ = ["WorkerEvalLoader", "WorkerTrainLoader"]

logger = logging.getLogger("mixcore")

MOST_SUBSTITUTES = 100
"""Unreadable samples in a row before the data set itself is taken to be unreadable."""
NAMED = 5
"""Files that a message about unreadable samples names."""

Key: TypeAlias = tuple[int, int]
"""Sample and seed of its transforms."""


@attrs.define(eq=False)
class _Fetched:
    """A batch as a worker hands it over; errors travel as text, because their own classes would lose the message."""

    images: Tensor | None = None
    labels: Tensor | None = None
    skipped: list[str] = attrs.field(factory=list)
    refused: list[str] = attrs.field(factory=list)

    def pin_memory(self) -> _Fetched:
        """Called by the DataLoader's pinning thread."""
        if self.images is not None and self.labels is not None:
            self.images, self.labels = self.images.pin_memory(), self.labels.pin_memory()
        return self


class _KeyedSamples(Dataset[Any]):
    """Whole batches of a data set, each sample made under its own seed.

    A sample that says so is skipped: with `substitute` the next readable one takes its place, so that batches keep
    their size; otherwise the batch is shorter.
    """

    def __init__(self, dataset: Dataset[Any], *, substitute: bool) -> None:
        self.dataset, self.substitute = dataset, substitute
        self.samples = len(dataset)  # type: ignore[arg-type]

    def __getitems__(self, keys: Sequence[Key]) -> _Fetched:
        fetched = _Fetched()
        pairs = [pair for index, seed in keys if (pair := self._sample(index, seed, fetched)) is not None]
        shapes = sorted({tuple(image.shape) for image, _ in pairs})
        if len(shapes) > 1:
            fetched.refused.append(
                f"images of one batch have the shapes {', '.join(str(list(shape)) for shape in shapes)}; the data "
                "plugin's transforms must bring all images to one size"
            )
        if pairs and not fetched.refused:
            fetched.images = torch.stack([image for image, _ in pairs])
            fetched.labels = torch.stack([_label(label) for _, label in pairs])
        return fetched

    def _sample(self, index: int, seed: int, fetched: _Fetched) -> tuple[Tensor, Any] | None:
        for step in range(min(self.samples, MOST_SUBSTITUTES) if self.substitute else 1):
            position = (index + step) % self.samples
            seed_generators(seed)
            try:
                image, label = self.dataset[position]
                return check_image(image, f"sample {position}"), label
            except UnreadableSampleError as error:
                if not error.skip:
                    fetched.refused.append(str(error))
                    return None
                fetched.skipped.append(str(error))
            except DataError as error:
                fetched.refused.append(str(error))
                return None
        if self.substitute:
            fetched.refused.append(f"no sample from {index} on can be read; last: {fetched.skipped[-1]}")
        return None


def _label(label: Any) -> Tensor:
    tensor = torch.as_tensor(label)
    return tensor.float() if tensor.is_floating_point() else tensor.long()


def _unchanged(fetched: Any) -> Any:
    return fetched


class _SignalsLeftToTheRun:
    """For worker processes: signals to stop end them only once the run itself is ending.

    Schedulers and terminals signal workers too, and the run still needs them to reach its next checkpoint. When the
    run's process exits, `closing` is set before multiprocessing terminates the workers that are left and joins them.
    """

    def __init__(self) -> None:
        self.closing = multiprocessing.RawValue("b", 0)
        atexit.register(setattr, self.closing, "value", 1)

    def __call__(self, _worker: int) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._answer)

    def _answer(self, _number: int, _frame: FrameType | None) -> None:
        if self.closing.value:
            os._exit(0)


class _Keys:
    """The batch sampler of a DataLoader whose worker processes outlive an epoch: `batches` is set before each."""

    batches: Iterator[list[Key]] = iter(())

    def __iter__(self) -> Iterator[list[Key]]:
        return self.batches


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
    ) -> None:
        self.samples = _KeyedSamples(dataset, substitute=training)
        self.task, self.inputs, self.device = task, inputs, device
        self.where = "the training set" if training else "the validation set"
        self.unreadable: dict[str, None] = {}
        self.keys = _Keys()
        self.loader = self._start(workers, persistent=training) if workers else None

    def _start(self, workers: int, *, persistent: bool) -> DataLoader[Any]:
        return DataLoader(
            self.samples,
            batch_sampler=self.keys,  # type: ignore[arg-type]  # only iterated
            num_workers=workers,
            persistent_workers=persistent,
            collate_fn=_unchanged,
            worker_init_fn=_SignalsLeftToTheRun(),
            pin_memory=self.device.type == "cuda",
            # Without one of its own the DataLoader draws its workers' base seed from the global generator.
            generator=keyed_generator("workers"),
        )

    def batches(self, keys: Iterator[list[Key]]) -> Iterator[tuple[Tensor, Tensor]]:
        """Images [N,C,H,W] and labels on the device. Raises UnreadableSampleError or DataError."""
        known = len(self.unreadable)
        for fetched in self._fetch(keys):
            if fetched.refused:
                raise UnreadableSampleError(_describe(fetched.refused, "cannot be used", self.where))
            self.unreadable.update(dict.fromkeys(fetched.skipped))
            if fetched.images is None or fetched.labels is None:
                continue
            check_labels(fetched.labels, self.task, self.where)
            yield self.inputs(to_device(fetched.images, self.device)), to_device(fetched.labels, self.device)
        if len(self.unreadable) > known:
            logger.warning("%s", _describe(list(self.unreadable), "cannot be read and were skipped", self.where))

    def _fetch(self, keys: Iterator[list[Key]]) -> Iterator[_Fetched]:
        if self.loader is not None:
            self.keys.batches = keys
            yield from self.loader
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
    ) -> None:
        self._batches = batches
        self._fetcher = _Fetcher(dataset, task, inputs, workers=workers, device=device, training=True)

    def __len__(self) -> int:
        return len(self._batches)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """This process's share of batches start, start + 1, ... of the epoch: images [N,C,H,W] and labels."""
        return self._fetcher.batches(self._keys(epoch, start))

    def _keys(self, epoch: int, start: int) -> Iterator[list[Key]]:
        order, seed = self._batches.order(epoch), self._batches.seed
        for iteration in range(start, len(self)):
            positions = self._batches.own_positions(iteration)
            samples = order[positions.start : positions.stop : positions.step].tolist()
            yield [
                (index, keyed_seed(seed, epoch, position, "sample"))
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

    def epoch(self, epoch: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:  # noqa: ARG002 one order for all
        """Images [N,C,H,W] and labels of this process's batches from `start` on, without unreadable samples."""
        shares = self._shares[start:]
        return self._fetcher.batches([(index, keyed_seed("validation", index)) for index in share] for share in shares)
