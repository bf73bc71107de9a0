"""Decoupled Mixup: "Harnessing Hard Mixed Samples with Decoupled Regularizer", NeurIPS 2023, arXiv 2203.10761.

M mixed images, S sources, K classes.
"""

from __future__ import annotations

import math
from typing import Literal

import attrs
import torch
from attrs.validators import ge, gt, in_, le, lt
from torch import Tensor
from torch.nn import functional as F

from mixcore.api import ConfigError, Targets, Task, hookimpl, merge_classes
from mixcore_plugin_decouplemix.present import LEAST_WEIGHT, classes_of, rescaled

__all__ = ["DecoupleMix", "Mode", "decoupled_cross_entropy"]

Mode = Literal["both", "less", "more"]


def decoupled_cross_entropy(
    logits: Tensor,
    targets: Targets,
    *,
    eta: float = 0.1,
    mode: Mode = "both",
    thr: float = 0.5,
    xi: float = 1.0,
    thr_scale: float = 1.0,
    smoothing: float = 0.0,
) -> Tensor:
    """Cross-entropy on mixed labels plus eta · sum_i r(l_i) · DM_i over the classes of each mixed image; a scalar.

    `logits` [M,K] float. DM_i = -log of the softmax of class i against the classes that are not in the mix
    (steps 1 to 6 of the method). Equal classes are merged; a class of weight below 1e-3 is not in the mix, and an image
    of fewer than two classes has no such term. Smoothing touches the cross-entropy only. MixcoreError for labels that
    are rows over classes.
    """
    classes, weights = classes_of(targets, "decouplemix"), targets.weights
    own = logits.gather(1, classes)
    everything = logits.logsumexp(1, keepdim=True)
    total = (weights * (everything - own)).sum()
    if smoothing and targets.smooth:
        uniform = (weights.sum(1) * (everything[:, 0] - logits.mean(1))).sum()
        total = (1 - smoothing) * total + smoothing * uniform
    if eta:
        share, first = merge_classes(classes, weights)
        present = share >= LEAST_WEIGHT
        # a class that occurs twice is written twice, with the same value
        in_mix = torch.zeros_like(logits, dtype=torch.bool).scatter(1, classes, present)
        rest = logits.masked_fill(in_mix, -math.inf).logsumexp(1, keepdim=True)
        # -log(e^z / (e^z + e^rest)), which does not cancel where the other class of the mix is sure
        decoupled = F.softplus(rest - own)
        counted = first & present
        strength = rescaled(share, xi, thr_scale) * chosen(share, counted, mode, thr)
        total = total + eta * (strength * decoupled).sum()
    return total / max(logits.shape[0], 1)


def chosen(share: Tensor, counted: Tensor, mode: Mode, thr: float) -> Tensor:
    """Which classes get the decoupled term, bool [M,S], of those that are `counted`; none where there are fewer than 2.

    "both": all. Of two classes, the first with weight l: "less" chooses the first where l < thr, else the second, and
    "more" the other one. Of more classes "less" chooses the one with the least weight, "more" the one with the most.
    """
    count = counted.sum(1, keepdim=True)
    mixed = counted & (count >= 2)
    if mode == "both":
        return mixed
    first = counted & (counted.cumsum(1) == 1)
    below = ((share < thr) & first).any(1, keepdim=True)
    of_two = counted & (first == (below if mode == "less" else ~below))
    if share.shape[1] == 2:
        return of_two & mixed
    ends = share.masked_fill(~counted, math.inf).argmin(1) if mode == "less" else (share * counted).argmax(1)
    of_many = torch.arange(share.shape[1], device=share.device) == ends[:, None]
    return torch.where(count == 2, of_two, of_many) & mixed


@attrs.define(eq=False, kw_only=True)
class DecoupleMix:
    """Cross-entropy on mixed labels, and a term in which each class competes only with classes not in the mix."""

    role = "loss"
    accepts = frozenset({"class"})

    eta: float = attrs.field(default=0.1, validator=[ge(0), lt(math.inf)])
    """Strength of the decoupled term; 0: plain cross-entropy on mixed labels."""
    mode: Mode = attrs.field(default="both", validator=in_(("both", "less", "more")))
    """Which classes of a mix get the term: both (all), or the one with less or with more weight."""
    thr: float = attrs.field(default=0.5, validator=[ge(0), le(1)])
    """Weight of the image's own class below which that class counts as the one with less; for modes less and more."""
    xi: float = attrs.field(default=1.0, validator=[ge(0), lt(math.inf)])
    """The term of a class of weight l is scaled by (l / thr_scale)^xi: 1 by its weight, 0 not at all (the paper)."""
    thr_scale: float = attrs.field(default=1.0, validator=[gt(0), le(1)])
    """Weight from which on the term is not scaled down."""
    smoothing: float = attrs.field(default=0.0, validator=[ge(0), lt(1)])
    """Label smoothing of the cross-entropy in [0, 1); the decoupled term keeps hard classes."""

    @hookimpl
    def check(self, task: Task) -> None:
        """Refuses a task of one class."""
        if task.num_classes < 2:
            raise ConfigError(
                f'loss "decouplemix" found num_classes = {task.num_classes} and needs at least 2; a single yes-or-no '
                'output is learnt with [loss] name = "bce"'
            )

    @hookimpl
    def compute_loss(self, logits: Tensor, targets: Targets) -> Tensor:
        """A scalar, from logits [M,K]."""
        return decoupled_cross_entropy(
            logits,
            targets,
            eta=self.eta,
            mode=self.mode,
            thr=self.thr,
            xi=self.xi,
            thr_scale=self.thr_scale,
            smoothing=self.smoothing,
        )
