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
    """Which block each place receives, int64 [N,n·n]; its own number where none comes (Puzzle Mix, arXiv 2009.06962).

    `shares` [N,n,n] >= 0 is each block's part of its image's saliency, summing to 1; `visible` bool [N,n,n]; n >= 2,
    `price` > 0. To put block i at place j costs price · d²(i,j) / (n-1)² - shares_i · visible_j, d in blocks. n times
    over, each block applies at its cheapest place, the place keeps the cheapest applicant of negative cost (ties:
    lowest number), and whoever was not kept strikes that place from its list.
    """
    count, blocks, _ = shares.shape
    places = blocks * blocks
    lists = _make_lists(shares.flatten(1).float(), visible.flatten(1), price)
    here = lists.first
    own = torch.arange(places, device=shares.device)
    # among equal gains the block of the lowest number has the highest bid
    rank = (places - 1 - own).repeat(count)
    none = here.new_full((count * places + 1,), -1)
    for _ in range(blocks):
        entry = lists.entry.index_select(0, here)
        wanted = lists.place.index_select(0, entry).long()
        bids = (lists.gain.index_select(0, entry).long() << _RANK_BITS) + rank
        best = none.scatter_reduce(0, wanted, bids, "amax")
        best[-1:].fill_(_NO_BID)  # at nobody's place nobody loses
        here = here + (best.index_select(0, wanted) > bids)
    best = best[:-1].view(count, places)
    return torch.where(best >= 0, places - 1 - (best & ((1 << _RANK_BITS) - 1)), own)


_RANK_BITS = 31
_NO_BID = torch.iinfo(torch.int64).min


class _Lists(NamedTuple):
    """The places that each block applies at, best first, and at the end of each list nobody's place, number N·n·n."""

    first: Tensor
    """[N·n·n] int64, where each block's list begins in `entry`; lists lie one behind the other."""
    entry: Tensor
    """[1 + E] int32, numbers into `place` and `gain`; what follows the last list is undefined, as is the first."""
    place: Tensor
    """[E] int32, number of the place over the whole batch."""
    gain: Tensor
    """[E] int32, -cost as the bits of a float; those of positive ones sort as the numbers do."""


def _make_lists(shares: Tensor, visible: Tensor, price: float) -> _Lists:
    """The lists for `shares` and `visible` [N,n·n], without asking the device how long they are.

    Only visible places of negative cost can ever be won, so the others are left out. There are at most 4 r grid points
    at 0 < d² < r, and the shares of an image sum to 1; so before visibility is looked at, its lists have together at
    most n² + 4 (n-1)² / price entries, where the whole matrix has n⁴. Small types and few temporaries: on a CPU most
    of the time goes into fresh memory.
    """
    count, places = shares.shape
    device = shares.device
    grid = _neighbourhood(math.isqrt(places), price, device)
    near, costs, moves, positions, numbers = grid.tables
    size = grid.entries
    samples = torch.arange(count, device=device, dtype=torch.int32)[:, None]

    # candidates of a block: the offsets with price · d² / (n-1)² < share (a little more; the cost itself decides below)
    reach = (shares * (grid.reach * 1.00001)).ceil_().clamp_(max=near.shape[0] - 1).int()
    lengths = near.index_select(0, reach.view(-1)).add_(1).view(count, places)
    ends = lengths.cumsum(1).clamp_(max=size)
    starts = (ends - lengths).clamp_(max=size - 1)
    # the block of each candidate is the number of lists that ended before it
    ended = ends.new_zeros(count, size + 1, dtype=torch.int32)
    ended.scatter_add_(1, ends, ended.new_ones(()).expand_as(ends))
    block = ended[:, :size].cumsum(1, dtype=torch.int32)
    last = ended[:, 1:] > 0
    real = block < places
    block.clamp_(max=places - 1)

    from_position = positions.index_select(0, block.view(-1))
    owner = block.add_(samples * places).view(-1)
    rank = torch.arange(size, device=device, dtype=torch.int32).repeat(count)
    rank.sub_(starts.int().view(-1).index_select(0, owner)).clamp_(max=costs.shape[0] - 1)
    gain = shares.view(-1).index_select(0, owner).sub_(costs.index_select(0, rank))
    place = numbers.index_select(0, from_position.add_(moves.index_select(0, rank))).view(count, size)
    seen = torch.cat((visible, visible.new_zeros(count, 1)), 1).view(-1)
    keep = seen.index_select(0, (place + samples * (places + 1)).view(-1)).view(count, size)
    keep = keep.logical_and_((gain > 0).view(count, size)).logical_or_(last).logical_and_(real).view(-1)
    place.add_(samples * places).masked_fill_(last, count * places)

    # entries that are kept move together, behind one slot for the rest
    slot = keep.int().cumsum(0)
    begin = (starts + samples * size).view(-1)
    first = slot.index_select(0, begin) + 1 - keep.index_select(0, begin).long()
    entry = torch.arange(count * size, device=device, dtype=torch.int32)
    entry = torch.empty(count * size + 1, dtype=torch.int32, device=device).scatter_(0, slot.mul_(keep), entry)
    return _Lists(first=first, entry=entry, place=place.view(-1), gain=gain.view(torch.int32))


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
    span, places, wide = torch.arange(1 - blocks, blocks, device="cpu"), blocks**2, 3 * blocks - 2
    rows, columns = torch.meshgrid(span, span, indexing="ij")
    distance = (rows**2 + columns**2).flatten()
    order = distance.argsort(stable=True)
    near = torch.cat((torch.zeros(1, dtype=torch.int64, device="cpu"), torch.bincount(distance).cumsum(0)))
    costs = price * (distance[order].double() / (blocks - 1) ** 2)
    moves = (rows * wide + columns).flatten()[order]
    numbers = torch.full((wide, wide), places, dtype=torch.int64, device="cpu")
    inner = slice(blocks - 1, 2 * blocks - 1)
    numbers[inner, inner] = torch.arange(places, device="cpu").view(blocks, blocks)
    positions = torch.nonzero(numbers.view(-1) < places)[:, 0]
    reach = (blocks - 1) ** 2 / price
    tables = (near, costs.float(), moves.int(), positions.int(), numbers.view(-1).int())
    return _Neighbourhood(
        tables=tuple(send(table, device) for table in tables),
        reach=reach,
        entries=min(places * order.shape[0], places + math.ceil(4.001 * reach)) + places + 1,
    )
