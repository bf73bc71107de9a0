"""Logits of a set, computed once for all analyses of one run; and images between pixels and network."""

from __future__ import annotations

from collections.abc import Iterable
from weakref import WeakKeyDictionary

import attrs
import torch
from torch import Tensor, nn

from mixcore.api import Batch, DataError, RunData, Task, Track, logits_of

__all__ = ["Predictions", "first_images", "logits_over", "normalised", "percent_correct", "pixels", "predictions"]


@attrs.frozen(eq=False)
class Predictions:
    """What a network says of a set, on the CPU."""

    logits: Tensor
    """float32 [n,K]."""
    labels: Tensor
    """int64 [n]."""


_KNOWN: WeakKeyDictionary[RunData, WeakKeyDictionary[nn.Module, dict[str, Predictions]]] = WeakKeyDictionary()
"""By run, network and set, for as long as the run is open."""


def predictions(model: nn.Module, data: RunData, progress: Track, name: str | None = None) -> Predictions:
    """Logits of the network for a set of the run (None: the analysed one); computed at the first call alone."""
    known = _KNOWN.setdefault(data, WeakKeyDictionary()).setdefault(model, {})
    name = name or data.set_name
    if name not in known:
        known[name] = logits_over(model, progress(data.batches(name)))
    return known[name]


def logits_over(model: nn.Module, batches: Iterable[Batch]) -> Predictions:
    """Logits of every batch. DataError where there is none."""
    logits, labels = [], []
    with torch.no_grad():
        for images, own in batches:
            logits.append(logits_of(model(images)).float().cpu())
            labels.append(own.cpu())
    if not logits:
        raise DataError("the set is empty: there is nothing to analyse")
    return Predictions(torch.cat(logits), torch.cat(labels))


def percent_correct(logits: Tensor, labels: Tensor) -> float:
    """Top-1 accuracy in percent, of logits [n,K] and labels int64 [n]."""
    return 100 * float((logits.argmax(1) == labels).double().mean())


def pixels(images: Tensor, task: Task) -> Tensor:
    """Normalised images [N,C,H,W] in [0,1], clipped."""
    mean, std = _constants(images, task)
    return (images * std + mean).clamp(0, 1)


def normalised(found: Tensor, task: Task) -> Tensor:
    """The inverse: pixels [N,C,H,W] in [0,1] as the network takes them."""
    mean, std = _constants(found, task)
    return (found - mean) / std


def _constants(images: Tensor, task: Task) -> tuple[Tensor, Tensor]:
    mean, std = (images.new_tensor(values).view(1, -1, 1, 1) for values in (task.mean, task.std))
    return mean, std


def first_images(data: RunData, count: int) -> tuple[Tensor, Tensor]:
    """The first `count` images of the analysed set, or all where there are fewer, and their labels."""
    images: list[Tensor] = []
    labels: list[Tensor] = []
    for batch in data.batches():
        images.append(batch.images)
        labels.append(batch.labels)
        if sum(map(len, images)) >= count:
            break
    if not images:
        raise DataError("the set is empty: there is nothing to analyse")
    return torch.cat(images)[:count], torch.cat(labels)[:count]
