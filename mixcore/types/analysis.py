"""What an analysis is given of a trained run beside its network, and how it says how far it is."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Protocol, TypeVar

from torch import Tensor

from mixcore.types.batch import Batch
from mixcore.types.mix import Mix, Targets

__all__ = ["RunData", "Track"]

Item = TypeVar("Item")


class Track(Protocol):
    """Progress of a long loop: a bar on a terminal, silent elsewhere."""

    def __call__(self, items: Iterable[Item], total: int | None = None) -> Iterator[Item]:
        """The items as they come; `total` is how many, where they do not know it themselves."""
        ...


class RunData(Protocol):
    """What a trained run knows: images of its sets and of others, its mixers, its checkpoints.

    One object stands for one run, predictor and set: what is computed of it may be kept under it by who computes it.
    """

    @property
    def set_name(self) -> str:
        """The set that is to be analysed."""
        ...

    @property
    def sets(self) -> tuple[str, ...]:
        """Names of the evaluation sets: "val", and those that the data plugin gives beside it."""
        ...

    def batches(self, name: str | None = None) -> Iterator[Batch]:
        """Batches of a set (None: `set_name`): images float32 [N,C,H,W], normalised, on the device, in order, once.

        ConfigError for an unknown name, DataError for a set that does not fit the task.
        """
        ...

    def other(self, name: str, options: Mapping[str, Any]) -> Iterator[Batch]:
        """Batches of the validation set of another [data] plugin, uint8 images normalised as this run's are.

        Labels are those of the other data. ConfigError or PluginError for what cannot be had, DataError for images of
        another shape than this task's.
        """
        ...

    @property
    def mixers(self) -> tuple[str, ...]:
        """Names of the installed mixers, sorted; asking takes seconds, because they are imported elsewhere."""
        ...

    def mix(self, images: Tensor, labels: Tensor, *, draw: int = 0, mixer: str | None = None) -> tuple[Mix, Targets]:
        """What a mixer makes of a batch [N,C,H,W], by draw number `draw`, and the label weights.

        None is the run's own first mixer, with its trained parts; a name an installed one with its default options,
        looking at the trained network. ConfigError where that is more than a mixed batch. The network stays as it is.
        """
        ...

    def passes(self) -> tuple[float, float]:
        """Forward and backward passes of networks in one iteration of the run's training, per batch."""
        ...

    def checkpoints(self) -> Iterator[tuple[int, Mapping[str, Tensor]]]:
        """Epoch and state of the analysed network in each checkpoint of the run's folder, oldest first."""
        ...
