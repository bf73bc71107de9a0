"""Whether tensors of a foreign loop lie together."""

from __future__ import annotations

import torch

__all__ = ["together"]


def together(one: torch.device, other: torch.device) -> bool:
    """Whether they are one device; without a number it is any of its type."""
    return one.type == other.type and (one.index == other.index or None in (one.index, other.index))
