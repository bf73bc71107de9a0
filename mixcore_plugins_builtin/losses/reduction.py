"""What all losses share: the batch mean and the refusal of a single class.

A loss applies the per-sample weights first and takes the mean last: mean(w · l), never mean(w) · mean(l).
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from mixcore.api import ConfigError

__all__ = ["Normalizer", "batch_mean", "require_classes"]

Normalizer = Literal["batch", "weights"]


def batch_mean(total: Tensor, weights: Tensor, normalizer: Normalizer = "batch") -> Tensor:
    """The scalar `total` (a sum over the M rows) divided by M ("batch") or by the sum of `weights` [M,S] ("weights").

    A batch without rows gives 0 with a graph, because an empty sum is 0.
    """
    rows = weights.shape[0]
    if normalizer == "weights" and rows:
        return total / weights.sum()
    return total / max(rows, 1)


def require_classes(num_classes: int, loss: str) -> None:
    """ConfigError for fewer than two classes: a softmax over one is 1 whatever the network says."""
    if num_classes < 2:
        raise ConfigError(
            f"loss {loss!r} found num_classes = {num_classes} and needs at least 2; a single yes-or-no output is "
            'learnt with [loss] name = "bce", a number with "l1" and labels of kind value'
        )
