"""Squared error on mixed values."""

from __future__ import annotations

import attrs
from torch import Tensor

from mixcore.api import Targets, hookimpl
from mixcore_plugins_builtin.losses.reduction import batch_mean

__all__ = ["MeanSquaredError", "mean_squared_error"]


def mean_squared_error(predictions: Tensor, targets: Targets) -> Tensor:
    """mean_k (z_k - t_k)² per row, then the batch mean; a scalar.

    `predictions` [M,K] float. t is the weighted sum of the sources' values [N,K], never smoothed: a value is no class.
    """
    error = predictions - targets.dense(predictions.shape[1])
    return batch_mean(error.square().mean(1).sum(), targets.weights)


@attrs.define(eq=False, kw_only=True)
class MeanSquaredError:
    """Squared error of values: for a pair, (z - lam·own - (1-lam)·partner)², the mean over the values of an image."""

    role = "loss"
    accepts = frozenset({"value"})

    @hookimpl
    def compute_loss(self, logits: Tensor, targets: Targets) -> Tensor:
        """A scalar, from predictions [M,K]."""
        return mean_squared_error(logits, targets)
