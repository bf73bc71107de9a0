"""Which row of the batch each image is mixed with."""

from __future__ import annotations

from typing import Literal, TypeAlias

import torch
from torch import Generator, Tensor

__all__ = ["PartnerRule", "draw_partners"]

PartnerRule: TypeAlias = Literal["permutation", "flip", "derangement"]
"""How partners are found; `draw_partners` says what each rule does."""


def draw_partners(rule: PartnerRule, count: int, rng: Generator) -> Tensor:
    """Partner of each of `count` rows, int64 [count] on the CPU, always a permutation.

    `permutation`: uniformly random; a row may be its own partner. `flip`: the reversed batch, without a draw (the
    middle row of an odd batch is its own partner). `derangement`: a random cycle through all rows, so that no row is
    its own partner (but a batch of one) and every other row is equally likely.
    """
    if rule == "flip":
        return torch.arange(count - 1, -1, -1, device="cpu")
    order = torch.randperm(count, generator=rng, device="cpu")
    if rule == "permutation":
        return order
    partner = torch.empty_like(order)
    partner[order] = order.roll(1)
    return partner
