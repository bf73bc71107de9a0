"""Cross-entropy on mixed labels, with label smoothing (arXiv 1512.00567)."""

from __future__ import annotations

from typing import Literal

import attrs
from torch import Tensor

from mixcore.api import Targets, Task, hookimpl
from mixcore_plugins_builtin.losses.reduction import Normalizer, batch_mean, require_classes

__all__ = ["SoftCrossEntropy", "SoftSmoothing", "original_smoothing", "soft_cross_entropy"]

SoftSmoothing = Literal["original", "classy_vision"]


def original_smoothing(smoothing: float, mode: str) -> float:
    """The epsilon of (1-s)·t + s/K that gives what `mode` means by `smoothing`.

    "classy_vision" is (t + s/K)/(1+s), which is "original" with s/(1+s).
    """
    return smoothing / (1 + smoothing) if mode == "classy_vision" else smoothing


def soft_cross_entropy(
    logits: Tensor, targets: Targets, *, smoothing: float = 0.0, normalizer: Normalizer = "batch"
) -> Tensor:
    """-sum_c t_c log softmax(z)_c per row, then the batch mean; a scalar.

    `logits` [M,K] float. Class labels take the short way: no target [M,K] is built, the log-probabilities of the S
    sources are gathered and weighted. Equal to the dense form to rounding. `smoothing` in [0,1) is
    (1-s)·t + s·(row sum of t)/K, skipped where the targets must not be smoothed. ConfigError for K = 1.
    """
    num_classes = logits.shape[1]
    require_classes(num_classes, "soft_cross_entropy")
    log_p = logits.log_softmax(1)
    if targets.labels.is_floating_point():
        total = -(targets.dense(num_classes, smoothing) * log_p).sum()
        return batch_mean(total, targets.weights, normalizer)
    total = -(targets.weights * log_p.gather(1, targets.labels[targets.sources])).sum()
    if smoothing and targets.smooth:
        uniform = -(targets.weights.sum(1) * log_p.mean(1)).sum()
        total = (1 - smoothing) * total + smoothing * uniform
    return batch_mean(total, targets.weights, normalizer)


@attrs.define(eq=False, kw_only=True)
class SoftCrossEntropy:
    """Cross-entropy on mixed labels: for a pair, lam·CE(own) + (1-lam)·CE(partner), per image."""

    role = "loss"
    accepts = frozenset({"class", "soft"})

    smoothing: float = attrs.field(default=0.0, validator=[attrs.validators.ge(0), attrs.validators.lt(1)])
    """Label smoothing in [0, 1), applied once, after mixing; 0.1 is usual for transformers."""
    smoothing_mode: SoftSmoothing = attrs.field(
        default="original", validator=attrs.validators.in_(("original", "classy_vision"))
    )
    """"original": (1-s)·t + s/K. "classy_vision": (t + s/K)/(1+s)."""
    normalizer: Normalizer = attrs.field(default="batch", validator=attrs.validators.in_(("batch", "weights")))
    """Divisor of the summed loss: the number of rows ("batch"), or the sum of the label weights ("weights")."""

    @hookimpl
    def check(self, task: Task) -> None:
        """Refuses a task of one class."""
        require_classes(task.num_classes, "soft_cross_entropy")

    @hookimpl
    def compute_loss(self, logits: Tensor, targets: Targets) -> Tensor:
        """A scalar, from logits [M,K]."""
        smoothing = original_smoothing(self.smoothing, self.smoothing_mode)
        return soft_cross_entropy(logits, targets, smoothing=smoothing, normalizer=self.normalizer)
