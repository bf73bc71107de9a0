"""Metrics of one predictor: what a run reports, and the counts that every run does, kept on the device until the end.

N images of a batch, K classes or values. Per label kind:

- class: labels int64 [N].
- soft: rows [N,K]; the class of largest weight (the lowest such index) is the label, the loss takes the whole row.
- multi_label: 0/1 rows [N,K]; a hit means that one of the image's labels is among the top classes, an image without
  labels is a miss; the loss is binary cross-entropy, mean over the classes.
- value: rows [N,K] of numbers; mean absolute and root mean squared error over all N·K numbers, the loss is the mean
  squared error.

A class stands before another where its logit is larger, or equal with a lower index: so a tie is decided the same way
on every device, and a network that gives one number for everything scores as chance. A row with a NaN is a miss.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from mixcore.errors import ConfigError, DataError
from mixcore.types import LabelKind, Metric, Task

if TYPE_CHECKING:
    from mixcore.hooks.calls import PluginCalls

__all__ = ["METRICS", "Counts", "add_up", "default_metrics", "headline", "ranks"]

METRICS: dict[LabelKind, tuple[str, ...]] = {
    "class": ("top1", "top5", "loss", "count"),
    "soft": ("top1", "top5", "loss", "count"),
    "multi_label": ("top1", "top5", "loss", "count"),
    "value": ("mae", "rmse", "loss", "count"),
}
"""What is reported per label kind; accuracies in percent."""


def default_metrics(task: Task, device: torch.device, extras: Iterable[PluginCalls] = ()) -> dict[str, Metric]:
    """What every run reports, the numbers of METRICS from one pass over the logits, and what its `extras` add.

    Raises ConfigError where two of them give a metric of the same name.
    """
    metrics: dict[str, Metric] = {"counts": Counts(task, device)}
    givers = dict.fromkeys((*metrics, *METRICS[task.label_kind]), "every run")
    for calls in extras:
        for name, metric in calls.build_metrics(task=task).items():
            if name in givers:
                raise ConfigError(
                    f"{calls.label} gives the metric {name!r}, which {givers[name]} gives too; give it another "
                    "name, or leave that [[extra]] out"
                )
            metrics[name], givers[name] = metric, calls.label
    return metrics


def headline(task: Task) -> tuple[str, bool]:
    """The metric that picks the best epoch, and whether higher is better."""
    return ("mae", False) if task.label_kind == "value" else ("top1", True)


def ranks(logits: Tensor, labels: Tensor) -> Tensor:
    """How many classes stand before the label, int64 [N]; K for a row with a NaN. `logits` [N,K], `labels` [N]."""
    own = logits.gather(1, labels[:, None])
    index = torch.arange(logits.shape[1], device=logits.device)
    before = (logits > own) | ((logits == own) & (index < labels[:, None]))
    return before.sum(1).masked_fill(logits.isnan().any(1), logits.shape[1])


def _best_label(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Of 0/1 rows [N,K] the label whose logit stands first, int64 [N], and whether the row has a label, bool [N]."""
    present = labels > 0
    return logits.masked_fill(~present, -math.inf).argmax(1), present.any(1)


class Counts:
    """Sums over the images seen so far: integers are exact, losses are summed in float64. Nothing is read here."""

    def __init__(self, task: Task, device: torch.device) -> None:
        self.kind = task.label_kind
        self.classes = task.num_classes
        self.hits = torch.zeros(3, dtype=torch.int64, device=device)
        """top-1 hits, top-5 hits, images"""
        self.sums = torch.zeros(2, dtype=torch.float64, device=device)
        """loss, absolute error"""
        self._totals: list[float] | None = None
        """The sums over all processes, once they were added up."""

    def update(self, logits: Tensor, labels: Tensor) -> None:
        """Add one batch: `logits` [N,K] float32, `labels` as the task's kind says."""
        self._totals = None
        if logits.shape[1:] != (self.classes,):
            raise DataError(
                f"a predictor gave outputs {list(logits.shape)} for a task of {self.classes} classes; give its head "
                f"{self.classes} outputs"
            )
        self.hits[2] += labels.shape[0]
        if self.kind == "value":
            error = (logits - labels).double()
            self.sums[0] += error.square().mean(1).sum()
            self.sums[1] += error.abs().mean(1).sum()
            return
        if self.kind == "multi_label":
            loss = F.binary_cross_entropy_with_logits(logits, labels, reduction="none").mean(1)
            best, labelled = _best_label(logits, labels)
            rank = ranks(logits, best).masked_fill(~labelled, self.classes)
        else:
            loss = F.cross_entropy(logits, labels, reduction="none")
            rank = ranks(logits, labels if self.kind == "class" else labels.argmax(1))
        self.sums[0] += loss.double().sum()
        self.hits[0] += (rank < 1).sum()
        self.hits[1] += (rank < min(5, self.classes)).sum()

    def packed(self) -> Tensor:
        """All sums of this process as float64 [5]; counts stay exact below 2**53."""
        return torch.cat((self.hits.double(), self.sums))

    def compute(self) -> dict[str, float]:
        """The numbers of METRICS over all processes. DataError where no image was counted."""
        if self._totals is None:
            add_up([self])
        assert self._totals is not None
        top1, top5, count, loss, absolute = self._totals
        if not count:
            raise DataError("the set is empty: there is nothing to evaluate on")
        if self.kind == "value":
            values = (absolute / count, math.sqrt(loss / count), loss / count, int(count))
        else:
            values = (100 * top1 / count, 100 * top5 / count, loss / count, int(count))
        return dict(zip(METRICS[self.kind], values, strict=True))

    def take(self, totals: list[float]) -> None:
        """What `packed` gave, summed over all processes."""
        self._totals = totals


def add_up(metrics: Iterable[Metric]) -> None:
    """Sum the Counts among `metrics` over all processes: one all_reduce, one read from the device."""
    counts = [one for one in metrics if isinstance(one, Counts)]
    if not counts:
        return
    packed = torch.stack([one.packed() for one in counts])
    if dist.is_available() and dist.is_initialized():
        dist.all_reduce(packed)
    for one, totals in zip(counts, packed.tolist(), strict=True):
        one.take(totals)
