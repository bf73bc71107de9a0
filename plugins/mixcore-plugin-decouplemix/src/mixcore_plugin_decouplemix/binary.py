"""The binary form of DecoupleMix: sigmoid cross-entropy on two-hot targets (arXiv 2203.10761 and OpenMixup).

M mixed images, S sources, K classes.
"""

from __future__ import annotations

import math
from typing import Literal

import attrs
from attrs.validators import ge, gt, in_, le, lt
from torch import Tensor
from torch.nn import functional as F

from mixcore.api import Targets, hookimpl, merge_classes
from mixcore_plugin_decouplemix.present import classes_of, rescaled

__all__ = ["DecoupleMixBCE", "Reduction", "two_hot_binary_cross_entropy"]

Reduction = Literal["mean", "sum_classes"]


def two_hot_binary_cross_entropy(
    logits: Tensor,
    targets: Targets,
    *,
    two_hot_scale: float = 1.0,
    neg_weight: float = 1.0,
    xi: float = 1.0,
    thr: float = 1.0,
    reduction: Reduction = "mean",
) -> Tensor:
    """softplus(z) - t·z per class, with t = min(1, scale · sum of r(l) over the sources of that class); a scalar.

    `logits` [M,K] float. r(l) = 1 from the weight `thr` on, else (l / thr)^xi, so that the targets of one image may sum
    to more than 1. Classes with t = 0 weigh `neg_weight`. The mean over rows and classes, or (sum_classes) K times
    that. No target [M,K] is built. MixcoreError for labels that are rows over classes.
    """
    classes = classes_of(targets, "decouplemix_bce")
    value, first = merge_classes(classes, rescaled(targets.weights, xi, thr))
    value = (two_hot_scale * value).clamp(max=1)
    own = logits.gather(1, classes)
    hit = (1 - neg_weight) * F.softplus(own) - value * own
    total = neg_weight * F.softplus(logits).sum() + (hit * (first & (value > 0))).sum()
    loss = total / max(logits.shape[0], 1)
    return loss if reduction == "sum_classes" else loss / logits.shape[1]


@attrs.define(eq=False, kw_only=True)
class DecoupleMixBCE:
    """Binary cross-entropy in which both classes of a mixed image may be sure: targets rise faster than weights."""

    role = "loss"
    accepts = frozenset({"class"})

    two_hot_scale: float = attrs.field(default=1.0, validator=[gt(0), le(1)])
    """Factor of all targets, in (0, 1]."""
    neg_weight: float = attrs.field(default=1.0, validator=[ge(0), le(1)])
    """Weight of the classes that are not in the mix, in [0, 1]."""
    xi: float = attrs.field(default=1.0, validator=[ge(0), lt(math.inf)])
    """The target of a class of weight l is (l / thr)^xi: 1 its weight, 0 always 1."""
    thr: float = attrs.field(default=1.0, validator=[gt(0), le(1)])
    """Weight from which on the target is 1."""
    reduction: Reduction = attrs.field(default="mean", validator=in_(("mean", "sum_classes")))
    """Over the classes: "mean" (timm) or "sum_classes" (OpenMixup), larger by the number of classes."""

    @hookimpl
    def compute_loss(self, logits: Tensor, targets: Targets) -> Tensor:
        """A scalar, from logits [M,K]."""
        return two_hot_binary_cross_entropy(
            logits,
            targets,
            two_hot_scale=self.two_hot_scale,
            neg_weight=self.neg_weight,
            xi=self.xi,
            thr=self.thr,
            reduction=self.reduction,
        )
