"""How many of the mixed images of an iteration are recognised: numbers for the log, nothing learns from them."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from mixcore.types import Targets

__all__ = ["training_accuracies"]


def training_accuracies(logits: Tensor, targets: Targets) -> Mapping[str, Tensor]:
    """From logits [M,K] and class labels, in percent: `top1`, the share whose first class is source 0's, and
    `top1_mixed`, which counts each rank for the source of that rank.

    Sources are ranked by weight, the later one first where two weigh the same: of a pair, max(lam, 1-lam) where the
    first class is that of the heavier source, and the rest where the second class is the lighter one's. Weights are
    shares of their row's sum. Empty for labels that are no classes.
    """
    if targets.labels.is_floating_point():
        return {}
    classes = targets.labels[targets.sources].flip(1)
    weights, order = targets.weights.flip(1).sort(dim=1, descending=True, stable=True)
    ranks = min(classes.shape[1], logits.shape[1])
    ranked = logits.detach().topk(ranks, dim=1).indices
    hits = ranked == classes.gather(1, order)[:, :ranks]
    shares = weights[:, :ranks] / weights.sum(1, keepdim=True).clamp_min(torch.finfo(weights.dtype).tiny)
    first = ranked[:, 0] == classes[:, -1]
    return {"top1": 100 * first.float().mean(), "top1_mixed": 100 * (hits * shares).sum(1).mean()}
