"""Losses of values: a penalty on the error at the mixed value.

A penalty is taken of each error z - t, where t is the weighted sum of the sources' values, never smoothed: a value is
no class. Then the mean over the values of an image, then over the batch.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import attrs
import torch
from attrs.validators import gt, in_, lt
from torch import Tensor
from torch.nn import functional as F

from mixcore.api import Targets, hookimpl
from mixcore_plugins_builtin.losses.reduction import batch_mean

__all__ = ["FocalL1", "Huber", "MeanAbsoluteError", "MeanSquaredError", "focal_weight", "penalised"]

Activation = Literal["sigmoid", "tanh"]


def penalised(predictions: Tensor, targets: Targets, penalty: Callable[[Tensor], Tensor]) -> Tensor:
    """The mean of `penalty` of the errors, a scalar; `predictions` [M,K] float, `penalty` from [M,K] to [M,K]."""
    errors = predictions - targets.dense(predictions.shape[1])
    return batch_mean(penalty(errors).mean(1).sum(), targets.weights)


def focal_weight(size: Tensor, beta: float, activation: Activation) -> Tensor:
    """In [0,1) of the error's `size` e >= 0: 2·sigmoid(beta·e) - 1, which is tanh(beta·e / 2), or tanh(beta·e)."""
    return torch.tanh(size * (beta if activation == "tanh" else beta / 2))


@attrs.define(eq=False, kw_only=True)
class MeanAbsoluteError:
    """Absolute error |z - t| of values, t the mixed value: lam·own + (1-lam)·partner for a pair."""

    role = "loss"
    accepts = frozenset({"value"})

    @hookimpl
    def compute_loss(self, logits: Tensor, targets: Targets) -> Tensor:
        """A scalar, from predictions [M,K]."""
        return penalised(logits, targets, torch.abs)


@attrs.define(eq=False, kw_only=True)
class MeanSquaredError:
    """Squared error of values: for a pair, (z - lam·own - (1-lam)·partner)², the mean over the values of an image."""

    role = "loss"
    accepts = frozenset({"value"})

    @hookimpl
    def compute_loss(self, logits: Tensor, targets: Targets) -> Tensor:
        """A scalar, from predictions [M,K]."""
        return penalised(logits, targets, torch.square)


@attrs.define(eq=False, kw_only=True)
class Huber:
    """Huber's loss of values: e²/2 for errors e up to `delta`, beyond it delta·(|e| - delta/2), a straight line."""

    role = "loss"
    accepts = frozenset({"value"})

    delta: float = attrs.field(default=1.0, validator=[gt(0), lt(math.inf)])
    """Error at which the square goes over into the line, in the unit of the values; above 0."""

    @hookimpl
    def compute_loss(self, logits: Tensor, targets: Targets) -> Tensor:
        """A scalar, from predictions [M,K]."""
        return penalised(
            logits, targets, lambda e: F.huber_loss(e, torch.zeros_like(e), reduction="none", delta=self.delta)
        )


@attrs.define(eq=False, kw_only=True)
class FocalL1:
    """Focal absolute error of values, e = |z - t|: e·(2·sigmoid(beta·e) - 1), or e·tanh(beta·e).

    From "Delving into Deep Imbalanced Regression", ICML 2021, arXiv 2102.09554. Small errors count less than they do in
    `l1`: their penalty is nearly a square, that of large ones nearly e itself.
    """

    role = "loss"
    accepts = frozenset({"value"})

    activation: Activation = attrs.field(default="sigmoid", validator=in_(("sigmoid", "tanh")))
    """What the factor of an error is made by: "sigmoid" or "tanh"."""
    beta: float = attrs.field(default=0.2, validator=[gt(0), lt(math.inf)])
    """How fast the factor goes to 1, per unit of the values; above 0."""
    plus_error: bool = False
    """Whether e itself is added, so that the penalty of small errors keeps a slope."""

    @hookimpl
    def compute_loss(self, logits: Tensor, targets: Targets) -> Tensor:
        """A scalar, from predictions [M,K]."""
        return penalised(logits, targets, self._penalty)

    def _penalty(self, errors: Tensor) -> Tensor:
        size = errors.abs()
        return size * (focal_weight(size, self.beta, self.activation) + float(self.plus_error))
