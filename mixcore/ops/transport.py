"""Moving salient blocks of an image to where they can be seen: an assignment of blocks to places on a grid."""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import torch
from torch import Tensor

from mixcore.ops.draws import send

__all__ = ["transport_blocks"]


@torch.no_grad()
def transport_blocks(shares: Tensor, visible: Tensor, price: float) -> Tensor:
    """Which block each place receives, int64 [N,n·n]; its own number where none comes (methods/puzzlemix.md, step 7).

    `shares` [N,n,n] >= 0 is each block's part of its image's saliency, summing to 1; `visible` bool [N,n,n]; n >= 2,
    `price` > 0. To put block i at place j costs price · d²(i,j) / (n-1)² - shares_i · visible_j, d in blocks. n times
    over, each block applies at its cheapest place, the place keeps the cheapest applicant of negative cost (ties:
    lowest number), and whoever was not kept strikes that place from its list.
    """
    count, blocks, _ = shares.shape
    places = blocks * blocks
    lists = _make_lists(shares.flatten(1).float(), visible.flatten(1), price)
    here = lists.first
    empty = here.new_full((count * places + 1,), -1)
    for _ in range(blocks):
        bids, wanted = lists.bid.index_select(0, here), lists.place.index_select(0, here)
        best = empty.scatter_reduce(0, wanted, bids, "amax")
        here = here + (best.index_select(0, wanted) > bids)
    best = best[:-1].view(count, places)
    own = torch.arange(places, device=shares.device)
    return torch.where(best >= 0, places - 1 - (best & _NUMBER), own)


_NUMBER_BITS = 31
_NUMBER = (1 << _NUMBER_BITS) - 1


class _Lists(NamedTuple):
    """The places that each block applies at, best first, all lists one behind the other.

    Each list ends with an entry for nobody's place, number N·n·n, where all bid 0 and stay.
    """

    place: Tensor
    """[E] flat number of the place, over the whole batch."""
    bid: Tensor
    """[E] -cost as the bits of a positive float, which sort as integers, above the block's number, lowest best."""
    first: Tensor
    """[N·n·n] where each block's list begins."""


def _make_lists(shares: Tensor, visible: Tensor, price: float) -> _Lists:
    """The lists for `shares` and `visible` [N,n·n], without asking the device how long they are.

    Only visible places of negative cost can ever be won, so the others are left out. There are at most 4 r grid points
    at 0 < d² < r, and the shares of an image sum to 1; so before visibility is looked at, its lists have together at
    most n² + 4 (n-1)² / price entries, where the whole matrix has n⁴.
    """
    count, places = shares.shape
    device = shares.device
    grid = _neighbourhood(math.isqrt(places), price, device)
    near, costs, moves, positions, numbers = grid.tables
    size = grid.entries
    samples = torch.arange(count, device=device)[:, None]

    # candidates of a block: the offsets with price · d² / (n-1)² < share (a little more; the cost itself decides below)
    reach = (shares * (grid.reach * 1.00001)).ceil_().clamp_(max=near.shape[0] - 1).long()
    lengths = near.index_select(0, reach.view(-1)).add_(1)
    ends = lengths.view(count, places).cumsum(1).clamp_(max=size)
    starts = (ends - lengths.view(count, places)).clamp_(max=size - 1)
    # the block of each entry is the number of lists that ended before it
    ended = ends.new_zeros(count, size + 1).scatter_add_(1, ends, torch.ones_like(ends))
    block = ended[:, :size].cumsum(1)
    real, last = block < places, ended[:, 1:] > 0
    block.clamp_(max=places - 1)
    owner = (block + samples * places).view(-1)
    rank = torch.arange(size, device=device) - starts.view(-1).index_select(0, owner).view(count, size)
    rank = rank.clamp_(max=costs.shape[0] - 1).view(-1)

    place = numbers.index_select(0, positions.index_select(0, block.view(-1)) + moves.index_select(0, rank))
    seen = torch.cat((visible, visible.new_zeros(count, 1)), 1).view(-1)
    seen = seen.index_select(0, (place.view(count, size) + samples * (places + 1)).view(-1)).view(count, size)
    gain = shares.view(-1).index_select(0, owner) - costs.index_select(0, rank)
    bid = (gain.view(torch.int32).long().view(count, size) << _NUMBER_BITS) + (places - 1 - block)
    keep = ((seen & (gain > 0).view(count, size)) | last) & real

    # what is kept moves together, the rest to a slot behind the end
    total = count * size
    behind = keep.view(-1).long().cumsum_(0)
    slot = torch.where(keep.view(-1), behind - 1, total)
    bid = bid.masked_fill_(last, 0).view(-1)
    place = (place.view(count, size) + samples * places).masked_fill_(last, count * places).view(-1)
    first = (starts + samples * size).view(-1)
    return _Lists(
        place=place.new_empty(total + 1).scatter_(0, slot, place),
        bid=bid.new_empty(total + 1).scatter_(0, slot, bid),
        first=behind.index_select(0, first) - keep.view(-1).index_select(0, first).long(),
    )


class _Neighbourhood(NamedTuple):
    """Offsets on a grid of n x n, nearest first, those of one distance in the order of place numbers.

    Positions are numbers on a wider grid, on which a block plus an offset never leaves its row.
    """

    tables: tuple[Tensor, ...]
    """How many offsets have d² < k, for k = 0, 1, ...; per offset its price (float32) and its move; per block its
    position; per position the place there, n·n outside the grid."""
    reach: float
    """d² up to which a share of 1 pays."""
    entries: int
    """Bound of all lists of one image together, with their last entries."""


@functools.lru_cache(maxsize=64)
def _neighbourhood(blocks: int, price: float, device: torch.device) -> _Neighbourhood:
    span, places, wide = torch.arange(1 - blocks, blocks), blocks**2, 3 * blocks - 2
    rows, columns = torch.meshgrid(span, span, indexing="ij")
    distance = (rows**2 + columns**2).flatten()
    order = distance.argsort(stable=True)
    near = torch.cat((torch.zeros(1, dtype=torch.int64), torch.bincount(distance).cumsum(0)))
    costs = price * (distance[order].double() / (blocks - 1) ** 2)
    moves = (rows * wide + columns).flatten()[order]
    numbers = torch.full((wide, wide), places)
    numbers[blocks - 1 : 2 * blocks - 1, blocks - 1 : 2 * blocks - 1] = torch.arange(places).view(blocks, blocks)
    positions = torch.nonzero(numbers.view(-1) < places)[:, 0]
    reach = (blocks - 1) ** 2 / price
    tables = (near, costs.float(), moves, positions, numbers.view(-1))
    return _Neighbourhood(
        tables=tuple(send(table, device) for table in tables),
        reach=reach,
        entries=min(places * order.shape[0], places + math.ceil(4.001 * reach)) + places + 1,
    )
