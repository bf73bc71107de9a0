"""Label weights by importance: how much of the saliency of each source is visible in a mix (step 7 of the method).

N images, M mixed images, S sources, n blocks a side.
"""

from __future__ import annotations

import math

import attrs
import torch
from attrs.validators import ge, lt, optional
from torch import Tensor
from torch.nn import functional as F

from mixcore.api import Mix, Probe, Saliency, Targets, as_saliency, hookimpl
from mixcore_plugin_saliencygrafting.grid import block_saliency, usual_blocks

__all__ = ["SaliencyGraftingLabels", "calibrated_weights", "importance"]


@torch.no_grad()
def importance(saliency: Tensor, masks: Tensor, norm: float = 2.0) -> Tensor:
    """How much of the saliency of each source is visible: [M,S] float32 in [0,1].

    The norm of saliency times mask over that of saliency: ``norm`` 2 is the root of the sum of squares. `saliency`
    [M,S,n,n] >= 0, not all 0 in any source, is the same over each block; `masks` [M,S,h,w] in [0,1] may be finer.
    """
    parts = saliency**norm
    seen = masks.float() ** norm
    rows, columns = saliency.shape[-2:]
    if masks.shape[-2:] != (rows, columns):
        seen = F.adaptive_avg_pool2d(seen, (rows, columns))
    shares = (parts * seen).sum((2, 3)) / parts.sum((2, 3))
    return shares.clamp(0, 1) ** (1 / norm)


@torch.no_grad()
def calibrated_weights(saliency: Tensor, masks: Tensor, norm: float = 2.0) -> Tensor:
    """The importance of each source over their sum, [M,S] float32; the areas where nothing salient is visible at all.

    Arguments as those of :func:`importance`.
    """
    seen = importance(saliency, masks, norm)
    total = seen.sum(1, keepdim=True)
    return torch.where(total > 0, seen / total, masks.mean((2, 3), dtype=torch.float32))


@attrs.define(eq=False, kw_only=True)
class SaliencyGraftingLabels:
    """Label weights by how much of each image's own saliency is visible in the mix, for the masks of any mixer."""

    role = "labels"
    spec_version = (1, 2)
    needs = frozenset({"mask"})
    reads_partner_pixels = True

    saliency: Saliency = attrs.field(default=Saliency("feature"), converter=as_saliency)
    """Where saliency comes from: any plugin of that role; the mixer's own costs no further pass."""
    n: int | None = attrs.field(default=None, validator=optional(ge(1)))
    """Blocks a side that saliency is averaged over; absent: those of a mask in blocks, else 4, 8 or 7 by image size."""
    norm: float = attrs.field(default=2.0, validator=[ge(1), lt(math.inf)])
    """Order of the norm by which importance is measured: 2, or 1 for the plain share of saliency."""

    @hookimpl
    def mix_labels(self, mix: Mix, images: Tensor, labels: Tensor, probe: Probe) -> Targets:
        """The mix's sources with calibrated weights; its own where it has no masks, or constant ones."""
        own = mix.varying_masks
        if own is None:
            return mix.targets(labels)
        blocks = self.n or _blocks_of(own, images)
        saliency = block_saliency(probe.saliency(self.saliency, images, labels), blocks)
        with torch.no_grad():
            masks = mix.masks_on(*own.shape[-2:]).clamp(min=0)
        return mix.targets(labels, calibrated_weights(saliency[mix.sources], masks, self.norm))


def _blocks_of(masks: Tensor, images: Tensor) -> int:
    """Blocks a side of the masks [M,S-1,h,w] where they are coarser than images [N,C,H,W], else as is usual."""
    (h, w), (height, width) = masks.shape[-2:], images.shape[-2:]
    return h if h == w < min(height, width) else usual_blocks(height, width)
