"""The solver for wide grids: the tight convex relaxation by a primal-dual iteration, rounding, a little descent.

A fixed number of operations of fixed shape: nothing is asked of the device. Chambolle and Pock, "A first-order
primal-dual algorithm for convex problems with applications to imaging", 2011.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from mixcore_plugin_puzzlemix.energy import Energy

__all__ = ["Turn", "descend", "relax", "solve_relaxed", "turn"]

THRESHOLDS = (0.25, 0.5, 0.75)
SWEEPS = 2


Turn = Callable[..., None]
"""What :func:`turn` is, itself or compiled."""


def solve_relaxed(energy: Energy, iterations: int, one_turn: Turn | None = None) -> Tensor:
    """Labels [n,n,N], float32, of nearly least energy: the best of three roundings of :func:`relax`."""
    relaxed = relax(energy, iterations, one_turn)
    rounded = torch.stack([(relaxed + threshold).floor_() for threshold in THRESHOLDS])
    return _best(energy, descend(energy, rounded.clamp_(0, energy.top), SWEEPS))


def relax(energy: Energy, iterations: int, one_turn: Turn | None = None) -> Tensor:
    """Minimiser [n,n,N] in [0,K] of the energy with unary costs and pulls joined by straight lines between integers.

    `y` are the dual variables of all pairs of neighbours in units of the step; `x` the labels less K - 1, so that what
    is cut out of them begins at 0. A pull rises beyond a difference of K as it did before: no labels differ by more,
    and y stays within bounds. `one_turn` is :func:`turn` or that compiled.
    """
    one_turn = one_turn or turn
    top, unary = energy.top, energy.unary
    _, blocks, _, count = unary.shape
    pulls = torch.cat((energy.vertical.reshape(-1, count), energy.horizontal.reshape(-1, count)))
    step = pulls.mean(0).mul_(0.5 if top > 1 else 1.0).clamp_(min=1e-12)
    bounds = (pulls / step).view(-1)
    low = -bounds
    slopes = unary.diff(dim=0) / (8 * step)
    cuts = slopes.diff(dim=0)
    shift = top - 1
    start = (shift if top == 1 else shift - 1) - slopes[0]

    x = unary.new_full((blocks, blocks, count), top / 2 - shift)
    ahead, spare, zeros = x.clone(), torch.empty_like(x), torch.zeros_like(x)
    y = torch.zeros_like(bounds)
    for _ in range(iterations):
        one_turn(x, ahead, spare, y, start, cuts, zeros, low, bounds, top)
        x, spare = spare, x
    return x + shift


def turn(
    x: Tensor,
    ahead: Tensor,
    spare: Tensor,
    y: Tensor,
    start: Tensor,
    cuts: Tensor,
    zeros: Tensor,
    low: Tensor,
    high: Tensor,
    top: int,
) -> None:
    """One primal-dual iteration, in place: `y` and `ahead` are renewed, and `spare` is what `x` was one later.

    `x`, `ahead`, `spare` and `zeros` [n,n,N]; `y` and its bounds `low` and `high` [2·n·(n-1)·N], first the pairs one
    above the other; `start` [n,n,N] and `cuts` [K-1,n,n,N] are the slopes of the unary costs.
    """
    blocks, _, count = x.shape
    edges = blocks * (blocks - 1) * count
    down, right = y[:edges].view(blocks - 1, blocks, count), y[edges:].view(blocks, blocks - 1, count)
    down.add_(ahead[1:]).sub_(ahead[:-1])
    right.add_(ahead[:, 1:]).sub_(ahead[:, :-1])
    _shrink(y, low, high, top)
    torch.add(x, start, out=spare)
    spare[:-1].add_(down, alpha=0.125)
    spare[1:].sub_(down, alpha=0.125)
    spare[:, :-1].add_(right, alpha=0.125)
    spare[:, 1:].sub_(right, alpha=0.125)
    for level in range(1, top):
        if level > 1:
            spare.sub_(1)
        spare.sub_(torch.clamp(spare, zeros, cuts[level - 1]))
    spare.clamp_(1 - top, 1)
    torch.lerp(x, spare, 2.0, out=ahead)


def _shrink(y: Tensor, low: Tensor, high: Tensor, top: int) -> None:
    """The dual step, in place: y grows to its first bound, stays while a difference of labels grows by 1, and so on."""
    if top == 1:
        y.clamp_(low, high)
        return
    kept = torch.clamp(y, low, high)
    rest, last = y, kept
    for _ in range(1, top):
        rest = F.softshrink(rest - last, 1.0)
        last = torch.clamp(rest, 2 * low, 2 * high)
        kept = kept + last
    y.copy_(kept)


def descend(energy: Energy, labels: Tensor, sweeps: int) -> Tensor:
    """Labels [R,n,n,N] after coordinate descent, the blocks of one colour of a chessboard at a time.

    A block takes the number of labels at which going one up still lowers the energy.
    """
    blocks = energy.unary.shape[1]
    side = torch.arange(blocks, device=labels.device)
    white = ((side[:, None] + side) % 2 == 0)[:, :, None]
    pulled = torch.zeros_like(energy.unary[0])
    pulled[:-1] += energy.vertical
    pulled[1:] += energy.vertical
    pulled[:, :-1] += energy.horizontal
    pulled[:, 1:] += energy.horizontal
    steps = energy.unary.diff(dim=0)
    turns = [(steps[j] + pulled * (2 * j + 1)) / 2 for j in range(energy.top)]
    for sweep in range(2 * sweeps):
        around = torch.zeros_like(labels)
        around[:, :-1].addcmul_(labels[:, 1:], energy.vertical)
        around[:, 1:].addcmul_(labels[:, :-1], energy.vertical)
        around[:, :, :-1].addcmul_(labels[:, :, 1:], energy.horizontal)
        around[:, :, 1:].addcmul_(labels[:, :, :-1], energy.horizontal)
        wanted = torch.stack([turn < around for turn in turns]).sum(0)
        labels = torch.where(white if sweep % 2 == 0 else ~white, wanted.to(labels.dtype), labels)
    return labels


def _best(energy: Energy, labels: Tensor) -> Tensor:
    """Of R candidates [R,n,n,N] the one of least energy, per sample; the first of equals."""
    steps = energy.unary.diff(dim=0)
    costs = [step * (labels - level).clamp_(0, 1) for level, step in enumerate(steps)]
    total = functools.reduce(torch.add, costs).sum((1, 2))
    total += (labels.diff(dim=1).square_() * energy.vertical).sum((1, 2))
    total += (labels.diff(dim=2).square_() * energy.horizontal).sum((1, 2))
    index = total.argmin(0).expand(1, *labels.shape[1:])
    return labels.gather(0, index)[0]
