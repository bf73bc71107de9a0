"""Alignment of two sets of feature vectors by entropic optimal transport, and their mix ("AlignMixup", CVPR 2022)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["align", "transport"]


def transport(own: Tensor, other: Tensor, *, eps: float = 0.1, max_iter: int = 100, tol: float = 0.1) -> Tensor:
    """Plan R [N,n,n] float32 >= 0 between n vectors each, `own` and `other` [N,n,C], times n (steps 3 to 5).

    R[b,i,j] says how much of position j of `other` belongs to position i of `own`, by Sinkhorn's iteration in the log
    domain on squared Euclidean distances with entropic weight `eps`. Columns sum to 1; rows do when it has converged.
    It stops as in the batch's mean the duals of the rows move by less than `tol` in sum (0: after `max_iter`). On
    every device all `max_iter` rounds are run, and those after the stop change nothing: nobody waits to see it.
    Without gradient.
    """
    with torch.no_grad():
        scores = _distances(own, other).div_(-eps)
        count = scores.shape[1]
        marginal = math.log(1 / count + 1e-8)
        rows = scores.new_zeros(scores.shape[0], count, 1)
        columns = rows.transpose(1, 2)
        running = scores.new_ones((), dtype=torch.bool)
        for _ in range(max_iter):
            rows, columns, moved = _round(scores, rows, columns, marginal, running)
            running = running & (moved * eps >= tol)
        return (scores + rows).add_(columns).exp_().mul_(count)


def _round(
    scores: Tensor, rows: Tensor, columns: Tensor, marginal: float, running: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Duals of rows [N,n,1] and columns [N,1,n] over eps after one round, the same where it is not `running`; and how
    far those of the rows moved, summed over positions, in the batch's mean."""
    fitted = marginal - (scores + columns).logsumexp(2, keepdim=True)
    moved = (fitted - rows).abs_().sum((1, 2)).mean()
    rows = torch.where(running, fitted, rows)
    columns = torch.where(running, marginal - (scores + rows).logsumexp(1, keepdim=True), columns)
    return rows, columns, moved


def _distances(own: Tensor, other: Tensor) -> Tensor:
    """Squared Euclidean distances [N,n,n] float32 of all pairs of vectors [N,n,C]."""
    own, other = own.float(), other.float()
    norms = own.square().sum(2)[:, :, None] + other.square().sum(2)[:, None]
    return torch.baddbmm(norms, own, other.transpose(1, 2), alpha=-2).clamp_(min=0)


def align(own: Tensor, other: Tensor, plan: Tensor, lam: float, *, to_own: bool) -> Tensor:
    """[N,n,C] float32: `own` and `other` [N,n,C] mixed lam : 1 - lam, one moved to the places of the other (step 6).

    `to_own`: position i has lam·own[i] + (1-lam)·sum_j plan[i,j]·other[j]. Otherwise position j has
    lam·sum_i plan[i,j]·own[i] + (1-lam)·other[j]. `plan` [N,n,n] as `transport` gives it; gradients flow to both.
    """
    own, other = own.float(), other.float()
    if to_own:
        return torch.baddbmm(own, plan, other, beta=lam, alpha=1 - lam)
    return torch.baddbmm(other, plan.transpose(1, 2), own, beta=1 - lam, alpha=lam)
