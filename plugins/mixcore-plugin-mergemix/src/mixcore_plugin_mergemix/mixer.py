"""MergeMix: "A Unified Augmentation Paradigm for Visual and Multi-Modal Understanding", ICLR 2026, arXiv 2510.23479."""

from __future__ import annotations

import math
from typing import Any, Literal

import attrs
import torch
from attrs.validators import ge, gt, in_, le, lt, optional
from torch import Generator, Tensor
from torch.nn import functional as F

from mixcore.api import (
    Mix,
    Probe,
    Saliency,
    Step,
    as_saliency,
    beta,
    blended,
    cells_to_pixels,
    draw_partners,
    happens,
    hookimpl,
    patch_side,
    select_pixels,
    send,
    token_grid,
)

__all__ = ["MergeMix", "drawn_weights", "keep_salient", "mergemix"]

LamScale = Literal["area", "gaussian"]
NO_RANGE = 1e-5


def keep_salient(saliency: Tensor, count: int) -> Tensor:
    """The `count` patches of each image where its saliency [N,h,w] is largest: bool [N,1,h,w], exactly so many true."""
    kept = torch.zeros_like(saliency, dtype=torch.bool).flatten(1)
    kept.scatter_(1, saliency.flatten(1).topk(count, dim=1).indices, True)
    return kept.view_as(saliency)[:, None]


def drawn_weights(normals: Tensor, share: float) -> Tensor:
    """Label weights drawn around the share of merged tokens with deviation `share`, stretched to reach 0 and 1; [N].

    (g - min) / (max - min + 1e-5) over the batch for g = share · `normals` [N]: what they are drawn around has no say.
    """
    drawn = share * normals
    low, high = drawn.aminmax()
    return (drawn - low) / (high - low + NO_RANGE)


def mergemix(images: Tensor, partner: Tensor, own: Tensor, lam: Tensor | None = None, **rest: Any) -> Mix:
    """Each image in the patches bool [N,1,h,w] that are its `own`, its partner in the others (steps 4 to 7).

    Labels are weighted by area, or by `lam` [N] where given. The mask is that of the patches where these divide the
    image evenly, else of its pixels; `rest` goes to the Mix.
    """
    height, width = images.shape[-2:]
    theirs = cells_to_pixels(~own, height, width)
    uneven = height % own.shape[2] or width % own.shape[3]
    masks = (~theirs if uneven else own).float()
    weight = masks.mean((1, 2, 3)) if lam is None else lam
    return Mix.pair(select_pixels(images, partner, theirs), partner, weight, masks, **rest)


@attrs.define(eq=False, kw_only=True)
class MergeMix:
    """MergeMix: the most salient patches of each image are kept, the rest is its partner's; Mixup in a view beside."""

    role = "mix"
    spec_version = (1, 2)
    provides = frozenset({"mask"})

    alpha: float = attrs.field(default=1.0, validator=[gt(0), lt(math.inf)])
    """Beta(alpha, alpha) gives the share of patches that are kept."""
    saliency: Saliency = attrs.field(default=Saliency("merged_attention"), converter=as_saliency)
    """What patches are ranked by: any plugin of role saliency."""
    patch: int | None = attrs.field(default=None, validator=optional(ge(1)))
    """Pixels a side of a patch; absent: those of a ViT's patches, and for other networks 14 patches a side."""
    mask_leaked: bool = False
    """Keep the least salient patches in place of the most salient."""
    lam_scale: LamScale = attrs.field(default="area", validator=in_(("area", "gaussian")))
    """Label weights by "area", or "gaussian": drawn per image, whatever the mask (published for CIFAR-100)."""
    lam_margin: float = attrs.field(default=0.0, validator=[ge(0), le(0.5)])
    """Where lam is this near to 0 or 1, the batch is plain Mixup."""
    switch_off: float | None = attrs.field(default=None, validator=optional([ge(0), le(1)]))
    """Absent: a Mixup batch is trained on beside each one. A share: so many batches are Mixup's, with one forward."""
    mixup_alpha: float = attrs.field(default=0.8, validator=[gt(0), lt(math.inf)])
    """Beta(alpha, alpha) gives the ratio of Mixup batches."""

    @property
    def contract(self) -> dict[str, Any]:
        """Weights that are drawn are not the mean of the mask."""
        return {"lam_is_mask_mean": self.lam_scale == "area"}

    @hookimpl
    def generate_mix(self, images: Tensor, labels: Tensor, probe: Probe, step: Step, rng: Generator) -> Mix:
        """The batch mixed by patches, Mixup of it as a view; or, by a chance of `switch_off`, Mixup alone."""
        if self.switch_off is not None and happens(self.switch_off, step.shared_rng("switch_off")):
            return self._mixup(images, rng, overwrite=step.may_overwrite)
        views = (self._mixup(images, rng),) if self.switch_off is None else ()
        lam = beta(self.alpha, rng)
        partner = send(draw_partners("permutation", images.shape[0], rng), images.device)
        if min(lam, 1 - lam) <= self.lam_margin:
            return blended(images, partner, lam, views=views)
        own = self._own(images, labels, lam, probe)
        return mergemix(images, partner, own, self._weights(images, lam, own, rng), views=views)

    def _mixup(self, images: Tensor, rng: Generator, overwrite: bool = False) -> Mix:
        partner = send(draw_partners("permutation", images.shape[0], rng), images.device)
        return blended(images, partner, beta(self.mixup_alpha, rng), overwrite=overwrite)

    def _own(self, images: Tensor, labels: Tensor, lam: float, probe: Probe) -> Tensor:
        """The patches that stay, bool [N,1,h,w]."""
        side = patch_side(probe.model) if self.patch is None else self.patch
        grid = token_grid(side, *images.shape[-2:])
        saliency = F.adaptive_avg_pool2d(probe.saliency(self.saliency, images, labels).float(), grid)
        kept = keep_salient(saliency, math.floor(lam * grid[0] * grid[1]))
        return ~kept if self.mask_leaked else kept

    def _weights(self, images: Tensor, lam: float, own: Tensor, rng: Generator) -> Tensor | None:
        """Drawn label weights [N], None where they are areas."""
        if self.lam_scale == "area":
            return None
        patches = own.shape[2] * own.shape[3]
        normals = torch.randn(images.shape[0], generator=rng, dtype=torch.float64, device="cpu")
        drawn = drawn_weights(normals, math.floor(lam * patches) / patches).float()
        return send(1 - drawn if self.mask_leaked else drawn, images.device)

    @hookimpl
    def preview_mix(self, images: Tensor, labels: Tensor, partner: Tensor, lam: float, probe: Probe) -> Mix:
        """The most salient patches at that ratio, weighted by area."""
        return mergemix(images, partner, self._own(images, labels, lam, probe))
