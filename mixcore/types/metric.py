"""What is measured of a predictor's outputs."""

from __future__ import annotations

from typing import Any, Protocol

from torch import Tensor

__all__ = ["Metric"]


class Metric(Protocol):
    """What is measured over a set of images; torchmetrics' metrics and collections are such as they are."""

    def update(self, logits: Tensor, labels: Tensor, /) -> Any:
        """Add one batch: `logits` [N,K] float32 and labels as the task's kind says; nothing is read on the host."""
        ...

    def compute(self) -> Any:
        """The number over all images of all processes, each of which calls it; or several numbers by name."""
        ...
