"""A module that a plugin adds to the run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import attrs
from torch import nn

from mixcore.types.names import Stage

__all__ = ["Part"]


def _part_stages(value: Sequence[Stage]) -> tuple[Stage, ...]:
    return tuple(value)


@attrs.frozen(eq=False, kw_only=True)
class Part:
    """A module that a plugin adds to the run, and how the core treats it."""

    module: nn.Module
    optimizer: Mapping[str, float] | None = attrs.field(factory=dict)
    """Differences from [optimizer] and [schedule] (lr, min_lr, momentum, warmup_epochs, ...); None: frozen."""
    eval: bool = False
    """Stays in eval mode (a teacher)."""
    save: bool = True
    """Is in checkpoints; False where it comes from a file of its own."""
    stages: tuple[Stage, ...] = attrs.field(default=(), converter=_part_stages)
    """Stages that are read from it."""
    attention: bool = False
    """Its attention is read."""
