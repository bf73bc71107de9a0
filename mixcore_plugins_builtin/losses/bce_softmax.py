"""Binary cross-entropy on softmax probabilities, the loss of the PuzzleMix and Co-Mixup reference code."""

from __future__ import annotations

import attrs
import torch
from torch import Tensor

from mixcore.api import Targets, Task, hookimpl
from mixcore_plugins_builtin.losses.reduction import Normalizer, batch_mean, require_classes

__all__ = ["SoftmaxBinaryCrossEntropy", "softmax_binary_cross_entropy"]

_SMALLEST_LOG = -100.0


def softmax_binary_cross_entropy(logits: Tensor, targets: Targets, *, normalizer: Normalizer = "batch") -> Tensor:
    """-(t log p + (1-t) log(1-p)) with p = softmax(z), mean over the M·K elements; a scalar.

    `logits` [M,K] float, t in [0,1]: a class whose label weights sum to more than 1 has t = 1. Logarithms below -100
    count as -100 and pass no gradient on, so that p = 0 and p = 1 give finite values. ConfigError for K = 1.
    """
    num_classes = logits.shape[1]
    require_classes(num_classes, "bce_softmax")
    dense = targets.dense(num_classes).clamp(max=1)
    log_p = logits.log_softmax(1)
    rest = -log_p.expm1()  # 1 - p, without the cancellation at small p
    tiny = torch.finfo(rest.dtype).tiny
    log_rest = torch.where(rest > tiny, rest.clamp_min(tiny).log(), _SMALLEST_LOG)
    total = -(dense * log_p.clamp_min(_SMALLEST_LOG) + (1 - dense) * log_rest).sum()
    return batch_mean(total, targets.weights, normalizer) / num_classes


@attrs.define(eq=False, kw_only=True)
class SoftmaxBinaryCrossEntropy:
    """Binary cross-entropy on softmax probabilities, to reproduce PuzzleMix and Co-Mixup as they were published."""

    role = "loss"
    accepts = frozenset({"class", "soft"})

    normalizer: Normalizer = attrs.field(default="batch", validator=attrs.validators.in_(("batch", "weights")))
    """Divisor over the rows: their number ("batch"), or the sum of the label weights ("weights")."""

    @hookimpl
    def check(self, task: Task) -> None:
        """Refuses a task of one class."""
        require_classes(task.num_classes, "bce_softmax")

    @hookimpl
    def compute_loss(self, logits: Tensor, targets: Targets) -> Tensor:
        """A scalar, from logits [M,K]."""
        return softmax_binary_cross_entropy(logits, targets, normalizer=self.normalizer)
