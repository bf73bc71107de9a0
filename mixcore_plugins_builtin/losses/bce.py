"""Binary cross-entropy on mixed labels, each class on its own ("ResNet strikes back", arXiv 2110.00476)."""

from __future__ import annotations

from typing import Literal

import attrs
import torch
from torch import Tensor
from torch.nn import functional as F

from mixcore.api import Targets, hookimpl, merge_classes
from mixcore_plugins_builtin.losses.reduction import Normalizer, batch_mean
from mixcore_plugins_builtin.losses.soft_cross_entropy import original_smoothing

__all__ = ["BinaryCrossEntropy", "BinarySmoothing", "Reduction", "binary_cross_entropy"]

Reduction = Literal["mean", "sum_classes"]
BinarySmoothing = Literal["original", "classy_vision", "multi_label"]


def _finish(value: Tensor, smoothing: float, mode: BinarySmoothing, share: Tensor, threshold: float | None) -> Tensor:
    """Mixed target values -> smoothed and thresholded ones; `share` is what smoothing gives to every class."""
    if smoothing and mode == "multi_label":
        value = smoothing + (1 - 2 * smoothing) * (value > 0).to(value.dtype)
    elif smoothing:
        epsilon = original_smoothing(smoothing, mode)
        value = (1 - epsilon) * value + epsilon * share
    if threshold is not None:
        value = (value > threshold).to(value.dtype)
    return value


def binary_cross_entropy(
    logits: Tensor,
    targets: Targets,
    *,
    reduction: Reduction = "mean",
    target_threshold: float | None = None,
    smoothing: float = 0.0,
    smoothing_mode: BinarySmoothing = "original",
    normalizer: Normalizer = "batch",
) -> Tensor:
    """softplus(z) - t·z per class; a scalar: the mean over rows and classes, or (sum_classes) K times that.

    `logits` [M,K] float. Mixing, then smoothing, then the threshold: t becomes 1 where t > target_threshold, else 0.
    A class whose label weights sum to more than 1 has t = 1: a larger target has no least loss.
    For class labels no target [M,K] is built: a target is one value for all classes plus a difference at the classes
    of the S sources, where the weights of equal classes are added before the threshold is asked.
    """
    num_classes = logits.shape[1]
    smoothing = smoothing if targets.smooth else 0.0
    share = targets.weights.sum(1, keepdim=True) / num_classes
    if targets.labels.is_floating_point():
        dense = targets.dense(num_classes)
        share = dense.sum(1, keepdim=True) / num_classes
        hit = (_finish(dense.clamp(max=1), smoothing, smoothing_mode, share, target_threshold) * logits).sum()
    else:
        labels = targets.labels[targets.sources]
        value, first = merge_classes(labels, targets.weights)
        present = _finish(value.clamp(max=1), smoothing, smoothing_mode, share, target_threshold)
        absent = _finish(torch.zeros_like(share), smoothing, smoothing_mode, share, target_threshold)
        hit = (first * (present - absent) * logits.gather(1, labels)).sum()
        if smoothing:
            hit = hit + (absent[:, 0] * logits.sum(1)).sum()
    total = F.softplus(logits).sum() - hit
    loss = batch_mean(total, targets.weights, normalizer)
    return loss if reduction == "sum_classes" else loss / num_classes


@attrs.define(eq=False, kw_only=True)
class BinaryCrossEntropy:
    """Binary cross-entropy of every class with its mixed label; predictions are ranked by logit as usual."""

    role = "loss"
    accepts = frozenset({"class", "soft", "multi_label"})

    reduction: Reduction = attrs.field(default="mean", validator=attrs.validators.in_(("mean", "sum_classes")))
    """Over the classes: "mean" (timm) or "sum_classes" (OpenMixup), larger by the number of classes."""
    target_threshold: float | None = attrs.field(
        default=None,
        validator=attrs.validators.optional([attrs.validators.ge(0), attrs.validators.lt(1)]),
    )
    """In [0, 1): targets above it become 1, the others 0, after mixing and smoothing. Absent: soft targets stay."""
    smoothing: float = attrs.field(default=0.0, validator=[attrs.validators.ge(0), attrs.validators.lt(1)])
    """Label smoothing in [0, 1); the published recipes with this loss use none."""
    smoothing_mode: BinarySmoothing = attrs.field(
        default="original", validator=attrs.validators.in_(("original", "classy_vision", "multi_label"))
    )
    """"original": (1-s)·t + s/K. "classy_vision": (t + s/K)/(1+s). "multi_label": 1-s where t > 0, s elsewhere."""
    normalizer: Normalizer = attrs.field(default="batch", validator=attrs.validators.in_(("batch", "weights")))
    """Divisor over the rows: their number ("batch"), or the sum of the label weights ("weights")."""

    @hookimpl
    def compute_loss(self, logits: Tensor, targets: Targets) -> Tensor:
        """A scalar, from logits [M,K]."""
        return binary_cross_entropy(
            logits,
            targets,
            reduction=self.reduction,
            target_threshold=self.target_threshold,
            smoothing=self.smoothing,
            smoothing_mode=self.smoothing_mode,
            normalizer=self.normalizer,
        )
