"""Who is mixed with whom."""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from mixcore.api import draw_partners

__all__ = ["draw_pairing"]

TRIES = 10


def draw_pairing(count: int, rng: Generator, *, no_repeat: bool = False, shift: bool = False) -> Tensor:
    """A random permutation, int64 [count] on the CPU.

    `no_repeat` draws up to ten times more until nobody is its own partner; where that fails, `shift` settles for the
    rows shifted by a random amount. A single row has no other partner.
    """
    partner = draw_partners("permutation", count, rng)
    if not no_repeat or count < 2:
        return partner
    own = torch.arange(count, device="cpu")
    for _ in range(TRIES):
        if not (partner == own).any():
            return partner
        partner = draw_partners("permutation", count, rng)
    if shift and (partner == own).any():
        amount = int(torch.randint(1, max(count - 1, 2), (), generator=rng, device="cpu"))
        return own.roll(amount)
    return partner
