"""The energy of a puzzle: what it costs to show a block of the own image or of the partner's.

Letters beside those of mixcore: n blocks a side, L labels, K = L - 1; label l of a block means that the own image shows
with weight l/K. Tensors of this module and of the solvers have the sample as last axis: then slices along the grid are
long runs of memory, and one operation serves the whole batch.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import attrs
import torch
from torch import Tensor

from mixcore.api import send

__all__ = ["Boundaries", "Energy", "boundaries", "prior_costs", "puzzle_energy"]


@attrs.frozen(eq=False, kw_only=True)
class Energy:
    """E(l) = sum over blocks of unary[l] + sum over neighbours of pull · (l - l')², for every sample at once."""

    unary: Tensor
    """[L,n,n,N] cost of each label, convex in the label."""
    vertical: Tensor
    """[n-1,n,N] >= 0, pull between a block and the one below it."""
    horizontal: Tensor
    """[n,n-1,N] >= 0, pull between a block and the one to its right."""

    @property
    def top(self) -> int:
        """K, the largest label."""
        return self.unary.shape[0] - 1

    def of(self, labels: Tensor) -> Tensor:
        """E [N] of integer labels [n,n,N]."""
        chosen = self.unary.gather(0, labels.long()[None])[0]
        level = labels.to(self.unary.dtype)
        down, right = level.diff(dim=0).square() * self.vertical, level.diff(dim=1).square() * self.horizontal
        return chosen.sum((0, 1)) + down.sum((0, 1)) + right.sum((0, 1))


@attrs.frozen(eq=False, kw_only=True)
class Boundaries:
    """Mean differences of the pixels on both sides of block boundaries, between all four choices of two images.

    [..., N], the leading axes those of the neighbours; the first word says whose pixels lie above or to the left.
    """

    own_own: Tensor
    own_partner: Tensor
    partner_own: Tensor
    partner_partner: Tensor


def prior_costs(lam: float, labels: int) -> list[float]:
    """-log(Binomial(K, lam) at j + 1e-8) for j = 0..K: what keeps the shown share near `lam`."""
    top = labels - 1
    return [-math.log(math.comb(top, j) * lam**j * (1 - lam) ** (top - j) + 1e-8) for j in range(labels)]


def boundaries(
    images: Tensor, partner: Tensor, blocks: int, std: Sequence[float], neighbourhood: int
) -> tuple[Boundaries, Boundaries]:
    """Differences across horizontal cuts ([n-1,n,N]) and across vertical cuts ([n,n-1,N]).

    Pixels count in [0,1] (`std` is what they were divided by, one per channel), in means over cells of q x q pixels: q
    is the largest divisor of both block sides up to `neighbourhood`. Only cells at a boundary are looked at.
    """
    sides = images.shape[-2] // blocks, images.shape[-1] // blocks
    common = math.gcd(*sides)
    cell = max(q for q in range(1, min(common, neighbourhood) + 1) if common % q == 0)
    scale = torch.tensor([one / images.shape[1] for one in std], dtype=torch.float32, device="cpu")
    scale = send(scale, images.device)
    down, right = (
        _differences(*_beside_cuts(images.float(), axis, blocks, cell), partner, scale / cell**2) for axis in (2, 3)
    )
    return down, right


def _beside_cuts(images: Tensor, axis: int, blocks: int, cell: int) -> tuple[Tensor, Tensor]:
    """Sums over the cells before and behind each cut across `axis` (2 or 3): both [N,C,n-1,n,k] or [N,C,n,n-1,k]."""
    along, side = 5 - axis, images.shape[axis] // blocks
    near = images.narrow(axis, side - cell, images.shape[axis] - 2 * (side - cell)).unfold(axis, 2 * cell, side)
    if axis == 3 and cell > 2:
        near = near.contiguous()  # a few columns of every line: once through the images, not once per column
    sums = []
    for strip in (near[..., :cell], near[..., cell:]):
        # slice by slice: sums over so short axes are several times slower
        line = functools.reduce(torch.add, strip.unbind(4)).unflatten(along, (-1, cell))
        cells = functools.reduce(torch.add, line.unbind(along + 1)).unflatten(along, (blocks, -1))
        sums.append(cells.movedim(along + 1, 4))
    return sums[0], sums[1]


def _differences(upper: Tensor, lower: Tensor, partner: Tensor, scale: Tensor) -> Boundaries:
    other_upper, other_lower = upper.index_select(0, partner), lower.index_select(0, partner)
    own_own = _difference(upper, lower, scale)
    return Boundaries(
        own_own=own_own,
        own_partner=_difference(upper, other_lower, scale),
        partner_own=_difference(other_upper, lower, scale),
        partner_partner=own_own.index_select(2, partner),
    )


def _difference(upper: Tensor, lower: Tensor, scale: Tensor) -> Tensor:
    """[..,..,N]: absolute differences of cells [N,C,..,..,k], mean over the cells, weighted sum over the channels."""
    return torch.einsum("ncrsk,c->rsn", (upper - lower).abs_(), scale / upper.shape[-1])


def puzzle_energy(
    shares: Tensor,
    partner: Tensor,
    down: Boundaries,
    right: Boundaries,
    prior: Sequence[float],
    *,
    beta: float,
    gamma: float,
    eta: float,
) -> Energy:
    """The energy of a labelling of the blocks (Puzzle Mix, arXiv 2009.06962, as its code has it).

    `shares` [N,n,n] is each block's part of its image's saliency; `down` and `right` as :func:`boundaries` gives them;
    `prior` the cost of each of the L labels. `beta` pulls neighbours together, `gamma` counts differences at
    boundaries, `eta` the prior.
    """
    blocks = shares.shape[1]
    own = shares.movedim(0, 2).contiguous()
    drop, keep = own.clone(), own.index_select(2, partner)
    pull = beta / (16 * blocks)
    top = len(prior) - 1
    pulls = []
    for part, first, second in (
        (down, (slice(None, -1),), (slice(1, None),)),
        (right, (slice(None), slice(None, -1)), (slice(None), slice(1, None))),
    ):
        own_own, own_partner = part.own_own * (pull * gamma / 2), part.own_partner * (pull * gamma / 2)
        partner_own, partner_partner = part.partner_own * (pull * gamma / 2), part.partner_partner * (pull * gamma / 2)
        keep[first] += own_partner + own_own
        keep[second] += partner_own + own_own
        drop[first] += partner_own + partner_partner
        drop[second] += own_partner + partner_partner
        weight = (own_partner + partner_own - own_own - partner_partner).add_(pull).clamp_(min=0)
        pulls.append(weight / top**2)
    unary = torch.stack([torch.lerp(drop, keep, j / top) + eta / blocks**2 * prior[j] for j in range(top + 1)])
    return Energy(unary=unary, vertical=pulls[0], horizontal=pulls[1])
