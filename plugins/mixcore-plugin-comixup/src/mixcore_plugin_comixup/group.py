"""The method as pure functions: saliency of groups of images to what each block of each output shows.

Letters as in `labels`; outputs are counted as the inputs are.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from mixcore_plugin_comixup.labels import PairCosts, counts_of, labels_of, offer_halves
from mixcore_plugin_comixup.solver import solve

__all__ = ["compatibility", "duplicates", "input_costs", "peaks", "penalty", "share_blocks"]

WINDOW = 8
"""Side in pixels of the windows whose mean saliency has its peak where an image's object is."""
EVERY_PIXEL_UP_TO = 64
"""Sides of images, in pixels, up to which windows begin at every pixel; in larger ones they stand side by side."""


def peaks(saliency: Tensor, height: int, width: int) -> Tensor:
    """[N,2] float32: row and column of the window of largest mean saliency, of images of `height` x `width` pixels.

    `saliency` [N,h,w] may be coarser; windows, and the steps between them, are then as much smaller.
    """
    window = tuple(
        min(size, max(1, round(WINDOW * size / pixels)))
        for size, pixels in zip(saliency.shape[1:], (height, width), strict=True)
    )
    step = window if max(height, width) > EVERY_PIXEL_UP_TO else 1
    means = F.avg_pool2d(saliency.float()[:, None], window, step)[:, 0]
    best, columns = means.flatten(1).argmax(1), means.shape[2]
    return torch.stack((best.div(columns, rounding_mode="floor"), best % columns), 1).float()


def compatibility(places: Tensor, omega: float) -> Tensor:
    """[G,I,I]: how much a block of one input counts for the penalty of another, from their peaks `places` [G,I,2].

    (1-omega) times the identity and omega times the distances, rows and columns added, scaled to sum to I; the identity
    where all distances are 0.
    """
    inputs = places.shape[1]
    distances = (places[:, :, None] - places[:, None]).abs().sum(3)
    total = distances.sum((1, 2), keepdim=True)
    own = torch.eye(inputs, dtype=distances.dtype, device=distances.device)
    return torch.where(total > 0, (1 - omega) * own + omega * inputs * distances / total, own)


def input_costs(shares: Tensor, prior: Tensor, eta: float) -> Tensor:
    """[G,n,n,I]: what a block costs by its input; `shares` [G,I,n,n] of saliency, `prior` [G,I] of the inputs."""
    side = shares.shape[2]
    return -shares.permute(0, 2, 3, 1) - (eta / side**2 * (prior + 1e-8).log())[:, None, None]


def penalty(others: Tensor, affinity: Tensor, limit: float, *, soft: bool) -> Tensor:
    """[G,I]: use of each input by the `others` [G,I], with inputs alike, where above `limit`; soft: what exceeds it."""
    use = torch.bmm(affinity, others[:, :, None])[:, :, 0]
    return F.relu(use - limit) if soft else F.threshold(use, limit, 0.0)


def duplicates(counts: Tensor) -> Tensor:
    """[O,G,I] of 0 and 1: inputs to be dearer for outputs that show the same two or more inputs as another one.

    The first of these inputs for the earlier output, the second for the later. `counts` [O,G,I].
    """
    used = counts > 0
    same = (used[:, None] == used[None]).all(3) & (used.sum(2) > 1)
    earlier = same.permute(2, 0, 1).triu(1)  # [G,O,O]: has the same as a later one
    rank = used.cumsum(2) * used
    first = earlier.any(2).t()[:, :, None] & (rank == 1)
    second = earlier.any(1).t()[:, :, None] & (rank == 2)
    return (first | second).float()


@torch.no_grad()
def share_blocks(
    unary: Tensor,
    affinity: Tensor,
    start: Tensor,
    *,
    beta: float = 0.32,
    gamma: float = 1.0,
    thres: float = 0.83,
    soft: bool = False,
    niter: int = 4,
    set_resolve: bool = True,
) -> Tensor:
    """int64 [G,I,2,n,n]: the two inputs that share each block of each output, the same twice where it is one alone.

    `unary` [G,n,n,I] as of :func:`input_costs`, `affinity` [G,I,I] as of :func:`compatibility`, `start` int64
    [G,I,n,n] the input that each block shows at first. In each of `niter` sweeps every output in turn is labelled anew
    beside the others as they are. Groups do not see each other.
    """
    inputs, side = start.shape[1], start.shape[2]
    if inputs == 1:
        return start[:, :, None].expand(-1, -1, 2, -1, -1)
    blocks, device = side**2, unary.device
    weight = gamma / blocks
    alone = PairCosts.without_halves(inputs, beta / blocks, device)
    halved = PairCosts.with_halves(inputs, beta / blocks, device)
    shown = [output[:, None].expand(-1, 2, -1, -1) for output in start.unbind(1)]
    counts = [counts_of(output, inputs) for output in shown]
    total = torch.stack(counts).sum(0)
    dearer: Tensor | None = None
    for sweep in range(niter):
        for output in range(inputs):
            total = total - counts[output]
            extra = 2 * penalty(total, affinity, thres * blocks, soft=soft)
            if dearer is not None:
                extra = extra + dearer[output]
            priced = unary + (weight * extra)[:, None, None]
            if sweep == 0:
                labels = solve(priced, alone, start[:, output])
                shown[output] = labels[:, None].expand(-1, 2, -1, -1)
            else:
                shown[output] = _relabelled(priced, halved, shown[output], counts[output])
            counts[output] = counts_of(shown[output], inputs)
            total = total + counts[output]
        if set_resolve and sweep == niter - 2:
            dearer = duplicates(torch.stack(counts))
    return torch.stack(shown, 1)


def _relabelled(priced: Tensor, costs: PairCosts, shown: Tensor, counts: Tensor) -> Tensor:
    """What one output shows [G,2,n,n] after it was solved with halves of what it showed."""
    unary, offered = offer_halves(priced, counts, costs)
    labels = solve(unary, costs, labels_of(shown, offered, costs))
    return offered.gather(2, labels.flatten(1)[:, None].expand(-1, 2, -1)).view_as(shown)
