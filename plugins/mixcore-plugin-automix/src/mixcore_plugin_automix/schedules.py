"""What changes over the run: the momentum of the averaged network and the weight of the mask loss."""

from __future__ import annotations

import functools
import math
from typing import Literal

import torch

__all__ = [
    "MASK_SCHEDULES",
    "UNLEARNT",
    "MaskSchedule",
    "ema_momentum",
    "first_weights_left",
    "learning_momentum",
    "mask_weight",
]

UNLEARNT = 0.1
"""Share of its first weights from which on an averaged network is said to have learnt little."""

MaskSchedule = Literal["constant", "cosine", "cosine_compounding"]
MASK_SCHEDULES: tuple[MaskSchedule, ...] = ("constant", "cosine", "cosine_compounding")


def ema_momentum(iteration: int, iterations: int, start: float, end: float, constant_share: float) -> float:
    """Share of the averaged weights that stays in the step of `iteration`, from 0, of `iterations`.

    `start` during the first `constant_share` of the run, afterwards end - (end-start)(cos(pi t/T)+1)/2, where t counts
    from the start of the run: it jumps a little. Without a constant share the first step copies the network.
    """
    if constant_share == 0 and iteration == 0:
        return 0.0
    if iteration < int(constant_share * iterations):
        return start
    return end - (end - start) * (math.cos(math.pi * iteration / iterations) + 1) / 2


def first_weights_left(iterations: int, start: float, end: float, constant_share: float) -> float:
    """Share in [0, 1] of its first weights that the averaged network holds after `iterations`: the product of momenta.

    Each iteration counts as an optimizer step; fewer steps leave more. At most a tenth may be an overestimate: what is
    less is not told apart.
    """
    left = 1.0
    for iteration in range(iterations):
        left *= ema_momentum(iteration, iterations, start, end, constant_share)
        if left <= UNLEARNT:
            break
    return left


def learning_momentum(iterations: int) -> float:
    """A momentum that, kept over the run, leaves clearly less than a tenth of the first weights."""
    return round(1 - float(f"{1 - (UNLEARNT / 10) ** (1 / iterations):.1g}"), 12)


def mask_weight(base: float, schedule: MaskSchedule, iteration: int, iterations: int) -> float:
    """Weight of the mask loss at `iteration`: constant, or base (1 + cos(pi t/T))/2.

    "cosine_compounding" multiplies these factors up from iteration 0 on, as published runs did: a hundredth of `base`
    is left after 2 to 4 % of the run.
    """
    if schedule == "constant":
        return base
    if schedule == "cosine":
        return base * (1 + math.cos(math.pi * iteration / iterations)) / 2
    return base * float(_compounded(iterations)[iteration])


@functools.lru_cache(maxsize=2)
def _compounded(iterations: int) -> torch.Tensor:
    factors = (1 + torch.cos(torch.arange(iterations, dtype=torch.float64, device="cpu") * (math.pi / iterations))) / 2
    return factors.cumprod(0)
