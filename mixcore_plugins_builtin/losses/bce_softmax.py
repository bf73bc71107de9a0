"""Binary cross-entropy on softmax probabilities, the loss of the PuzzleMix and Co-Mixup reference code."""

from __future__ import annotations

from collections.abc import Mapping

import attrs
from torch import Tensor, nn
from torch.nn import functional as F

from mixcore.api import Targets, Task, hookimpl
from mixcore_plugins_builtin.losses.reduction import Normalizer, batch_mean, require_classes

__all__ = ["SoftmaxBinaryCrossEntropy", "softmax_binary_cross_entropy"]


def softmax_binary_cross_entropy(logits: Tensor, targets: Targets, *, normalizer: Normalizer = "batch") -> Tensor:
    """-(t log p + (1-t) log(1-p)) with p = softmax(z), mean over the M·K elements; a scalar.

    `logits` [M,K] float, t in [0,1]. Logarithms are held at -100 or above, as torch's own function does, whose
    gradient stays finite at p = 0 and p = 1. ConfigError for K = 1.
    """
    num_classes = logits.shape[1]
    require_classes(num_classes, "bce_softmax")
    dense = targets.dense(num_classes).to(logits.dtype)
    total = F.binary_cross_entropy(logits.softmax(1), dense, reduction="sum")
    return batch_mean(total, targets.weights, normalizer) / num_classes


@attrs.define(eq=False, kw_only=True)
class SoftmaxBinaryCrossEntropy:
    """Binary cross-entropy on softmax probabilities, to reproduce PuzzleMix and Co-Mixup as they were published."""

    role = "loss"
    accepts = frozenset({"class", "soft"})

    normalizer: Normalizer = attrs.field(default="batch", validator=attrs.validators.in_(("batch", "weights")))
    """Divisor over the rows: their number ("batch"), or the sum of the label weights ("weights")."""

    @hookimpl
    def build_modules(self, task: Task) -> Mapping[str, nn.Module]:
        """No parts; refuses a task of one class before training starts."""
        require_classes(task.num_classes, "bce_softmax")
        return {}

    @hookimpl
    def compute_loss(self, logits: Tensor, targets: Targets) -> Tensor:
        """A scalar, from logits [M,K]."""
        return softmax_binary_cross_entropy(logits, targets, normalizer=self.normalizer)
