"""What a loss is multiplied with while a gradient of it passes a float16 network."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["fixed_scale", "looking_scale"]

HALF_SCALE = 1024.0
"""Factor of a loss while its gradient passes a float16 network: without it small gradients vanish. A power of two."""


def fixed_scale(_device: torch.device) -> float:
    """The factor of a loss on its way through a float16 network where nobody told of a scaler."""
    return HALF_SCALE


def looking_scale(scale: Tensor | float) -> Tensor | float:
    """The factor for a gradient that is looked at and not delivered: no scaler hears of it when it overflows.

    A scaler's scale is as large as the run's own backward bears, so this one is kept well below it.
    """
    return scale.clamp(max=HALF_SCALE) if isinstance(scale, Tensor) else scale
