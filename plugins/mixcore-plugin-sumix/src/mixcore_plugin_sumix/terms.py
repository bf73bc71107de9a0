"""The terms of SUMix: "SUMix: Mixup with Semantic and Uncertain Information", ECCV 2024, arXiv 2407.07805.

M mixed images, S sources, K classes. For a pair, sources a and b with labels a and b; `mixed` are the logits z' of the
mix, `clean` those of each source's own image.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["corrected_weights", "distances", "signed_terms", "uncertainty_loss", "unit_softmax"]


def unit_softmax(values: Tensor) -> Tensor:
    """Softmax over the last dimension, divided by its Euclidean norm, in float32; of norm 1."""
    values = values.float()  # the softmax's own sum cancels
    return (values - 0.5 * (2 * values).logsumexp(-1, keepdim=True)).exp()


@torch.no_grad()
def signed_terms(mixed: Tensor, clean: Tensor, classes: Tensor, sources: Tensor) -> Tensor:
    """A / scale, [M,S,K] float32 of norm 1: softmax and norm of what the mix is predicted more than each source alone.

    `mixed` [M,K] and `clean` [M,S,K] logits, `classes` and `sources` int64 [M,S]: labels, and rows of the batch. In the
    prediction of a source, the classes of the mix's other images are set to 0 (step 3 of the method).
    """
    others = (sources[:, :, None] != sources[:, None, :]).float()
    of_others = torch.zeros_like(clean).scatter_add(2, classes[:, None, :].expand_as(others), others) > 0
    alone = clean.softmax(2).masked_fill(of_others, 0.0)
    return unit_softmax(mixed.softmax(1)[:, None] - alone)


@torch.no_grad()
def distances(mixed: Tensor, clean: Tensor) -> Tensor:
    """Distance [M,S] float32 between the predictions of the mix, logits [M,K], and of each source, logits [M,S,K]."""
    return (mixed.softmax(1)[:, None] - clean.softmax(2)).norm(dim=2)


@torch.no_grad()
def corrected_weights(weights: Tensor, terms: Tensor) -> Tensor:
    """weights · exp(-terms) over their sum, [M,S] float32 (step 4), finite whatever the `terms` [M,S] are.

    `weights` [M,S] >= 0, some of each row above 0. Of a pair, sigmoid(logit(lam) - (terms of a - terms of b)).
    """
    return (weights.log() - terms).softmax(1)


def uncertainty_loss(own: Tensor, mixed: Tensor, terms: Tensor, classes: Tensor, weights: Tensor) -> Tensor:
    """Cross-entropy of the pseudo-logits exp(-(own + mixed + terms)) of each source, weighted; a scalar (step 6).

    `own` [M,S,K] and `mixed` [M,K] are the uncertainty of each source's own image and of the mix, `terms` [M,S,K] the
    scaled A, `classes` int64 and `weights` [M,S]. The mean over images, each weighted before.
    """
    logits = (-(own + mixed[:, None] + terms)).exp()
    each = logits.logsumexp(2) - logits.gather(2, classes[:, :, None])[:, :, 0]
    return (weights * each).sum(1).mean()
