"""AttentiveMix+, after "Attentive CutMix", ICASSP 2020, arXiv 2003.13048.

N images, h w the cells of the attention map, h·w of them.
"""

from __future__ import annotations

import math

import attrs
import torch
from attrs.validators import and_, ge, gt, lt, optional
from torch import Generator, Tensor

from mixcore.api import (
    Mix,
    OptionValueError,
    Probe,
    Saliency,
    as_saliency,
    beta,
    block_shares,
    cells_to_pixels,
    draw_partners,
    hookimpl,
    select_pixels,
    send,
    unmixed,
)

__all__ = ["AttentiveMix", "attentive_cells", "attentivemix", "cell_count"]


def cell_count(cells: int, lam: float) -> int:
    """How many of so many cells stay at a share `lam` in [0,1]: rounded down, but one at least (step 3)."""
    return max(math.floor(cells * lam), 1)


def attentive_cells(attention: Tensor, count: int) -> Tensor:
    """The `count` largest cells of each map [N,h,w] as bool [N,h,w] (step 4); of equals the first in reading order."""
    flat = attention.flatten(1)
    best = flat.sort(dim=1, descending=True, stable=True).indices[:, :count]
    return torch.zeros_like(flat, dtype=torch.bool).scatter_(1, best, True).view_as(attention)


def attentivemix(images: Tensor, partner: Tensor, cells: Tensor) -> Mix:
    """Each image where its `cells` bool [N,h,w] are set, its partner elsewhere (steps 5 to 7).

    `images` [N,C,H,W]; `partner` int64 [N] on their device. The mask is that of the cells where they divide the image
    evenly, else of its pixels; the label weight is its mean.
    """
    height, width = images.shape[-2:]
    kept = cells_to_pixels(cells[:, None], height, width)
    even = height % cells.shape[1] == 0 and width % cells.shape[2] == 0
    masks = (cells[:, None] if even else kept).float()
    return Mix.pair(select_pixels(images, partner, ~kept), partner, masks.mean((1, 2, 3)), masks)


@attrs.define(eq=False, kw_only=True)
class AttentiveMix:
    """AttentiveMix+: the most attended cells of each image are kept, the rest is its partner's."""

    role = "mix"
    spec_version = (1, 2)
    provides = frozenset({"mask"})

    alpha: float = attrs.field(default=2.0, validator=[ge(0), lt(math.inf)])
    """Beta(alpha, alpha) gives the share of the cells that stay, one draw per batch; 0 turns mixing off."""
    beta: float | None = attrs.field(default=None, validator=optional(and_(gt(0), lt(math.inf))))
    """Second parameter of that draw, Beta(alpha, beta): 8 in the published text, not in its code; absent: alpha."""
    top_k: int | None = attrs.field(default=None, validator=optional(ge(1)))
    """So many cells stay, in place of a share that is drawn; the paper: 6."""
    grid: int | None = attrs.field(default=None, validator=optional(ge(1)))
    """Cells a side that the map is summed over, for maps with a value per pixel; absent: the map's own positions."""
    saliency: Saliency = attrs.field(
        default=Saliency("teacher_feature", {"teacher": "resnet18", "classes": "own", "size": 224}),
        converter=as_saliency,
    )
    """Where attention comes from: any plugin of role saliency. A teacher's weights are timm's, or those of a file."""

    @hookimpl
    def generate_mix(self, images: Tensor, labels: Tensor, probe: Probe, rng: Generator) -> Mix:
        """The mixed batch, one count of cells for all; the batch itself where mixing is off."""
        if self.alpha == 0:
            return unmixed(images)
        lam = beta(self.alpha, rng, self.beta)
        partner = send(draw_partners("permutation", images.shape[0], rng), images.device)
        with torch.no_grad():
            attention = probe.saliency(self.saliency, images, labels)
            if self.grid is not None:
                attention = block_shares(attention, self.grid)
            return attentivemix(images, partner, attentive_cells(attention, self._count(attention, lam)))

    def _count(self, attention: Tensor, lam: float) -> int:
        height, width = attention.shape[-2:]
        if self.top_k is None:
            return cell_count(height * width, lam)
        if self.top_k > height * width:
            raise OptionValueError(
                f"attentivemix: top_k = {self.top_k}, and the map has {height} x {width} = {height * width} cells; set "
                f"top_k to at most {height * width}, or leave it out"
            )
        return self.top_k
