"""Pixels by the rank of their value, for each image its own number: on the device and in one go.

Values [n,P] float32, numbers [n] int64 on their device. Among equal values the first pixel ranks first.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["largest", "ramps"]

DIGIT, DIGITS = 8, 3
"""Values are ordered as whole numbers of 24 bits, as many as a float32 holds, read eight at a time."""
BINS = 1 << DIGIT
STEPS = (1 << DIGIT * DIGITS) - 4
"""The largest whole number; a little less than 24 bits hold, for the product that gives it is rounded."""
BLOCK = 1 << 18
"""Values that are worked on together on a CPU, where they stay in its cache: 100 images of 32x32 are one block."""
ROW_BY_ROW = 1 << 12
"""Values of a row from which rows are better searched one by one on a CPU: 100 of 32x32 take 0.8 ms and all at once
0.5, 64 of 64x64 take 1.2 and 4.7, 32 of 224x224 take 5 and 9 (one thread of an AMD EPYC, torch 2.15)."""


def largest(values: Tensor, counts: Tensor) -> Tensor:
    """True on the `counts` largest of each row of `values`: bool [n,P].

    Values closer than 1/2^24 of the range of their row count as equal.
    """
    rows = max(1, BLOCK // values.shape[1])
    if values.device.type != "cpu" or rows >= values.shape[0]:
        return _largest(values, counts)
    return torch.cat([_largest(*block) for block in zip(values.split(rows), counts.split(rows), strict=True)])


def ramps(values: Tensor, counts: Tensor, halves: Tensor) -> Tensor:
    """1 on the `counts` largest of each row, 0 elsewhere, but for an even ramp over as many ranks on either side.

    `halves` int64 [n]: ranks (from 0) below counts - halves get 1, from counts + halves on 0, those between from 1 to 0
    in steps of 1/(2·halves - 1). Neither end may lie outside the row. float32 [n,P], of mean counts/P.
    """
    rank = torch.arange(values.shape[1], dtype=torch.float32, device=values.device)
    half = halves.clamp(min=1)[:, None].float()  # a ramp over one rank on either side has no step between
    shares = ((counts[:, None] + half - 1 - rank) / (2 * half - 1)).clamp_(0, 1)
    order = values.argsort(dim=1, descending=True, stable=True)
    return torch.empty_like(shares).scatter_(1, order, shares)


def _largest(values: Tensor, counts: Tensor) -> Tensor:
    """By the key of the last pixel that counts, and how many of the pixels that have it do."""
    keys, wanted = _keys(values), counts[:, None].to(torch.int32)
    one_by_one = values.device.type == "cpu" and (len(values) == 1 or values.shape[1] >= ROW_BY_ROW)
    last, wanted = (_last_by_row if one_by_one else _last_by_digits)(keys, wanted)
    # of the pixels that have this key the first ones: the others get the next key
    same = torch.bitwise_xor(keys, last).clamp_(max=1).neg_().add_(1)
    late = torch.cumsum(same, 1, out=same).sub_(wanted).clamp_(0, 1)
    return keys.add_(late) <= last


def _last_by_row(keys: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
    """The key number `wanted` [n,1] of each row, [n,1], and which of those equal to it this is; row by row.

    The numbers were drawn on the host: reading them on a CPU costs nothing.
    """
    rows = zip(keys.unbind(0), wanted.flatten().tolist(), strict=True)
    last = torch.stack([row.kthvalue(max(count, 1)).values for row, count in rows])[:, None]
    return last, wanted - (keys < last).sum(1, keepdim=True, dtype=torch.int32)


def _last_by_digits(keys: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
    """:func:`_last_by_row` for all rows at once: digit by digit, from a histogram of those that agree so far.

    A sort would find it too: on one thread of a CPU in 3 ms for 100 images of 32x32, where this takes 0.5.
    """
    ones = torch.ones_like(keys)
    scattered = (keys & (BINS - 1)).bitwise_or_(BINS)  # where pixels that disagree are counted: not all in one place
    last = keys.new_zeros(keys.shape[0], 1)
    digits, index = torch.empty_like(keys), torch.empty_like(keys, dtype=torch.int64)
    for shift in range(DIGIT * (DIGITS - 1), -1, -DIGIT):
        torch.bitwise_xor(keys, last, out=digits).bitwise_right_shift_(shift)
        index.copy_(torch.minimum(digits, scattered, out=digits))
        counted = keys.new_zeros(keys.shape[0], 2 * BINS).scatter_add_(1, index, ones)[:, :BINS]
        until = counted.cumsum(1, dtype=torch.int32)
        digit = torch.searchsorted(until, wanted).clamp_(max=BINS - 1)
        wanted = wanted - (until - counted).gather(1, digit)
        last = last | (digit << shift).to(torch.int32)
    return last, wanted


def _keys(values: Tensor) -> Tensor:
    """Whole numbers [n,P] int32 in [0, 2^24), the smaller the larger the value."""
    low, high = values.amin(1, keepdim=True), values.amax(1, keepdim=True)
    scale = STEPS / (high - low).clamp_(min=1e-30)  # a constant field has no range
    return (high - values).mul_(scale).to(torch.int32)
