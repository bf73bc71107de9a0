"""Token merging: similar tokens become one, their size-weighted mean (ToMe, arXiv 2210.09461).

B images, L patches, T tokens of which the first is the class token, C features of a token.
"""

from __future__ import annotations

import functools
import itertools

import attrs
import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["USUAL_PATCHES", "Tokens", "merge_map", "merge_schedule", "scaled_schedule"]

USUAL_PATCHES = 196
"""The number of patches that `merge_num` is told for: 14 x 14."""


@functools.lru_cache(maxsize=64)
def merge_schedule(depth: int, total: int) -> tuple[int, ...]:
    """How many tokens each of `depth` blocks merges away: falling from the first to the last, `total` together.

    Of the schedules int(lo + (hi - lo) · i / (depth - 1)) with lo = int(1.5 r) and hi = 2 r - lo, the first whose sum
    is nearest to `total`, r being raised until the distance grows; the first block makes up for what is missing.
    """
    best: tuple[int, ...] = (0,) * depth
    for mean in itertools.count(1):
        found = _falling(depth, mean)
        far, near = abs(sum(found) - total), abs(sum(best) - total)
        if far > near or found[0] + total < sum(found):
            break
        if far < near:
            best = found
    return (best[0] + total - sum(best), *best[1:])


def scaled_schedule(depth: int, merge_num: int, patches: int) -> tuple[int, ...]:
    """:func:`merge_schedule` of `merge_num` tokens of 196, in proportion to so many `patches`."""
    return merge_schedule(depth, round(merge_num * patches / USUAL_PATCHES))


def _falling(depth: int, mean: int) -> tuple[int, ...]:
    """From half as many more than the mean to half as many less."""
    first = int(1.5 * mean)
    last = 2 * mean - first
    return tuple(int(first + (last - first) * i / max(depth - 1, 1)) for i in range(depth))


def merge_map(metric: Tensor, count: int) -> Tensor:
    """Where each token goes when the `count` most similar pairs are merged: int64 [B,T], of T - count new tokens.

    `metric` [B,T,d] says which tokens are alike, by cosine. Tokens 0, 2, 4, .. each look for the one most alike among
    1, 3, 5, ..; the `count` most alike go into theirs. The others come first, in their order, then 1, 3, 5, ..
    Token 0, the class token, stays and receives nothing. `count` is at most (T - 1) // 2.
    """
    alike = F.normalize(metric.float(), dim=-1)
    scores = alike[:, ::2] @ alike[:, 1::2].transpose(1, 2)
    scores[:, 0] = -torch.inf
    best, target = scores.max(2)
    order = best.argsort(1, descending=True)
    gone, stays = order[:, :count], order[:, count:].sort(1).values
    rows, device = metric.shape[0], metric.device
    places = torch.empty(rows, metric.shape[1], dtype=torch.int64, device=device)
    ranks = torch.arange(stays.shape[1], device=device).expand(rows, -1)
    moved = torch.empty_like(order).scatter_(1, stays, ranks).scatter_(1, gone, stays.shape[1] + target.gather(1, gone))
    places[:, ::2] = moved
    places[:, 1::2] = stays.shape[1] + torch.arange(metric.shape[1] // 2, device=device)
    return places


@attrs.define(eq=False, kw_only=True)
class Tokens:
    """Tokens on their way through a network that merges them."""

    values: Tensor
    """[B,T,C]."""
    sizes: Tensor
    """[B,T,1] float32, of how many tokens each is made."""
    places: Tensor
    """int64 [B,L+1], which token each of those at the start has become a part of."""

    @classmethod
    def whole(cls, values: Tensor) -> Tokens:
        """Tokens [B,L+1,C] of which none is merged."""
        rows, count, _ = values.shape
        places = torch.arange(count, device=values.device).expand(rows, -1)
        sizes = torch.ones(rows, count, 1, dtype=torch.float32, device=values.device)
        return cls(values=values, sizes=sizes, places=places)

    def merged(self, metric: Tensor, count: int) -> Tokens:
        """With `count` tokens fewer, merged as :func:`merge_map` says; as many as can be where `count` is more."""
        count = min(count, (self.values.shape[1] - 1) // 2)
        if count <= 0:
            return self
        with torch.no_grad():
            places = merge_map(metric, count)
            sizes = _added(self.sizes, places, count)
        values = _added(self.values.float() * self.sizes, places, count) / sizes
        return Tokens(values=values.to(self.values.dtype), sizes=sizes, places=places.gather(1, self.places))

    def spread(self, of_tokens: Tensor) -> Tensor:
        """What belongs to tokens, [B,T] or [B,T,C], given to each of those that they are made of: [B,L+1] or so."""
        if of_tokens.ndim == 2:
            return of_tokens.gather(1, self.places)
        return of_tokens.gather(1, self.places[..., None].expand(-1, -1, of_tokens.shape[2]))


def _added(values: Tensor, places: Tensor, count: int) -> Tensor:
    """[B,T,C] summed by their new places: [B,T-count,C]."""
    rows, tokens, width = values.shape
    sums = values.new_zeros(rows, tokens - count, width)
    return sums.scatter_add(1, places[..., None].expand(-1, -1, width), values)
