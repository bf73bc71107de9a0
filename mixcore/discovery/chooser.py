"""The core's own implementation of `choose_mixer`: whose turn it is."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import attrs
import torch

from mixcore.hooks.markers import hookimpl

__all__ = ["Chooser", "probabilities_of"]


@attrs.define(eq=False)
class Chooser:
    """Chooses by probability; plugins change the choice with a wrapper."""

    @hookimpl
    def choose_mixer(self, probabilities: Sequence[float], rng: torch.Generator) -> int | None:
        """Index of the [[mix]] table whose share of [0, 1) one uniform draw falls into; None beyond their sum."""
        draw = torch.rand((), generator=rng, dtype=torch.float64, device="cpu").item()
        below = (index for index, upper in enumerate(accumulate(probabilities)) if draw < upper)
        return next(below, None)


def probabilities_of(given: Sequence[float | None]) -> tuple[float, ...]:
    """Probability of each [[mix]] table: those given, the rest of 1 shared equally among those without one."""
    missing = sum(value is None for value in given)
    rest = max(0.0, 1.0 - sum(value for value in given if value is not None))
    return tuple(rest / missing if value is None else value for value in given)
