"""What the block is asked for, in turn: mixed images that the momentum copy finds easy, and such that it finds hard."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["generator_objective", "similarity"]


def similarity(logits: Tensor, clean: Tensor, sources: Sequence[Tensor], lams: Sequence[float]) -> Tensor:
    """Mean over the images of sum_i lam_i cos(z, t_i), a scalar in [-1, 1].

    `logits` [N,K] of mixed images, `clean` [N,K] those of the unmixed batch, `sources` S rows [N] of it.
    """
    told = zip(sources, lams, strict=True)
    cosines = [lam * F.cosine_similarity(logits, clean.index_select(0, rows), dim=1).mean() for rows, lam in told]
    return torch.stack(cosines).sum()


def generator_objective(loss: Tensor, cosine: Tensor, beta: float, sign: float) -> Tensor:
    """Of an adversarial step: -beta · loss + (1 - beta) · sign · cosine (arXiv 2312.11954, as it was trained)."""
    return (1 - beta) * sign * cosine - beta * loss
