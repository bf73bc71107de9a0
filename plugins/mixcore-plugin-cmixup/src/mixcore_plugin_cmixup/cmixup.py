"""C-Mixup: "C-Mixup: Improving Generalization in Regression", NeurIPS 2022, arXiv 2210.05775.

N batch, V values.
"""

from __future__ import annotations

import math

import attrs
import torch
from attrs.validators import ge, gt, lt
from torch import Generator, Tensor

from mixcore.api import Mix, Step, beta, blended, hookimpl, send, uniforms, unmixed

__all__ = ["CMixup", "pick", "probabilities", "squared_distances"]


def squared_distances(labels: Tensor) -> Tensor:
    """|y_i - y_j|² of every two rows, float64 [N,N]: of values, or of rows over classes, [N,V].

    Class labels int64 [N] stand for their one-hot rows: 0 between equal classes, 2 between different ones.
    """
    if not labels.is_floating_point():
        return 2 * (labels[:, None] != labels).double()
    rows = labels.double()
    # not by matrix products, which leave nothing of a small difference between large values
    return torch.cdist(rows, rows, compute_mode="donot_use_mm_for_euclid_dist").square()


def probabilities(distances: Tensor, bandwidth: float) -> Tensor:
    """Chance that image i has partner j, [N,N], rows sum to 1: proportional to exp(-|y_i - y_j|² / (2 bandwidth²)).

    `distances` are the squared ones. An image may be its own partner, at distance 0.
    """
    return torch.softmax(distances / (-2 * bandwidth**2), 1)


def pick(chances: Tensor, draws: Tensor) -> Tensor:
    """For each row of `chances` [N,N] the column in whose share of [0,1) its uniform draw [N] falls: int64 [N].

    A column without a chance is never picked.
    """
    edges = chances.cumsum(1)
    # the last edge may be 1 less a rounding error; taken for exactly 1, no draw lies beyond it
    return (edges / edges[:, -1:] <= draws[:, None]).sum(1)


@attrs.define(eq=False, kw_only=True)
class CMixup:
    """C-Mixup: each image is blended with another one, drawn the more often the nearer their labels are."""

    role = "mix"

    alpha: float = attrs.field(default=1.0, validator=[ge(0), lt(math.inf)])
    """The ratio of a batch comes from Beta(alpha, alpha); 0 turns mixing off."""
    bandwidth: float = attrs.field(default=1.0, validator=[gt(0), lt(math.inf)])
    """Sigma of the Gaussian that partners are drawn by, in the unit of the labels (years, degrees); above 0."""

    @hookimpl
    def generate_mix(self, images: Tensor, labels: Tensor, step: Step, rng: Generator) -> Mix:
        """The blended batch; the batch itself where mixing is off."""
        if self.alpha == 0:
            return unmixed(images)
        lam, draws = beta(self.alpha, rng), send(uniforms(images.shape[0], rng=rng), images.device)
        partner = pick(probabilities(squared_distances(labels), self.bandwidth), draws)
        return blended(images, partner, lam, overwrite=step.may_overwrite)
