"""The method as pure functions: saliency to masks, masks and images to mixed images."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mixcore.api import combine_blocks, transport_blocks
from mixcore_plugin_puzzlemix.energy import Energy, boundaries, prior_costs, puzzle_energy
from mixcore_plugin_puzzlemix.exact import solve_exactly
from mixcore_plugin_puzzlemix.relaxed import Turn, solve_relaxed

__all__ = ["assemble", "puzzle_masks", "solve"]

LARGEST_STATE = 256
"""States per row up to which the exact solver is taken: on one CPU thread and a batch of 100, 81 states cost 2 ms and
256 states 10 ms, 6561 (8x8 blocks of 3 labels) 350 ms."""


def solve(energy: Energy, one_turn: Turn | None = None) -> Tensor:
    """Labels [n,n,N], float32: exactly where rows have few states, else nearly (gaps: README).

    `one_turn` is the iteration of the second way, compiled; absent: as it is.
    """
    labels, blocks = energy.unary.shape[:2]
    if labels**blocks <= LARGEST_STATE:
        return solve_exactly(energy)
    return solve_relaxed(energy, iterations=40 if labels > 2 else 100, one_turn=one_turn)


@torch.no_grad()
def puzzle_masks(
    images: Tensor,
    partner: Tensor,
    shares: Tensor,
    lam: float,
    *,
    labels: int = 3,
    beta: float = 1.2,
    gamma: float = 0.5,
    eta: float = 0.2,
    neighbourhood: int = 4,
    std: Sequence[float],
    one_turn: Turn | None = None,
) -> Tensor:
    """The weight of each own block, [N,1,n,n] float32 in {0, 1/(labels-1), .., 1}.

    `images` [N,C,H,W], `partner` int64 [N], `shares` [N,n,n] the share of each block in its image's saliency, `lam` the
    wanted mean weight. `std` per channel is what pixels in [0,1] were divided by. `one_turn` goes to :func:`solve`.
    """
    down, right = boundaries(images, partner, shares.shape[1], std, neighbourhood)
    prior = prior_costs(lam, labels)
    energy = puzzle_energy(shares, partner, down, right, prior, beta=beta, gamma=gamma, eta=eta)
    return (solve(energy, one_turn) / (labels - 1)).permute(2, 0, 1)[:, None].contiguous()


@torch.no_grad()
def assemble(images: Tensor, rows: Tensor, masks: Tensor, shares: Tensor | None = None, price: float = 0.8) -> Tensor:
    """images[rows[:, 0]] where the mask is 1, images[rows[:, 1]] where it is 0; a new tensor [N,C,H,W].

    `rows` int64 [N,2], `masks` [N,1,n,n]. With `shares` [2,N,t,t], the saliency of the first and of the second images
    on a grid that n divides, blocks of both first move, at `price`, to where they can be seen.
    """
    if shares is None:
        weights = masks.flatten(1)
        blocks = torch.arange(weights.shape[1], device=masks.device).expand(len(rows), 2, -1)
    else:
        repeat = shares.shape[-1] // masks.shape[-1]
        fine = masks[:, 0].repeat_interleave(repeat, 1).repeat_interleave(repeat, 2)
        moved = transport_blocks(shares.flatten(0, 1), torch.cat((fine > 0, fine < 1)), price)
        blocks, weights = moved.view(2, len(rows), -1).transpose(0, 1), fine.flatten(1)
    return combine_blocks(images, rows, blocks, torch.stack((weights, 1 - weights), 1))
