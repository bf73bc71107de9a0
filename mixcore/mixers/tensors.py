"""What messages of a foreign loop say of tensors."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["layout", "together"]


def layout(tensor: Tensor) -> str:
    """Its dtype and shape, such as `float32 [4, 3, 32, 32]`."""
    return f"{tensor.dtype} {list(tensor.shape)}".replace("torch.", "")


def together(one: torch.device, other: torch.device) -> bool:
    """Whether they are one device; without a number it is any of its type."""
    return one.type == other.type and (one.index == other.index or None in (one.index, other.index))
