"""Label weights by what is looked at: how much of a map falls on each source of a mix.

M mixed images, S sources, h w the grid of the map.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["attended_weights"]

LEAST_ATTENTION = 1e-12


def attended_weights(areas: Tensor, masks: Tensor, attention: Tensor, r: float | Tensor = 0.5) -> Tensor:
    """r · area + (1-r) · share of the attention that falls on each source; [M,S] float32 in [0,1].

    TransMix, arXiv 2111.09833. `areas` [M,S] are the weights by area, most often the means of the masks, `masks`
    [M,S,h,w] the masks on the grid of `attention` [M,h,w] >= 0, of any total; `r` in [0,1] is one number, or one per
    image [M]. What a mask is above its area is weighed, so that a constant mask has its own weight to the bit.
    """
    attention = attention.float()
    total = attention.sum((1, 2)).clamp(min=LEAST_ATTENTION)
    above = masks.float() - areas[:, :, None, None]
    excess = torch.einsum("mshw,mhw->ms", above, attention) / total[:, None]
    trust = 1 - (r[:, None] if isinstance(r, Tensor) else r)
    return (areas + trust * excess).clamp(0, 1)
