"""Object-aware CutMix, the label policy (arXiv 2606.04820): each image counts by how much of its object is still seen.

N images of the batch, M mixed images, S sources.
"""

from __future__ import annotations

import attrs
import torch
from attrs.validators import ge, le
from torch import Tensor
from torch.nn import functional as F

from mixcore.api import Batch, Mix, Targets, hookimpl

__all__ = ["OACutMix", "object_weights"]

MAP = "object"


@torch.no_grad()
def object_weights(objects: Tensor, masks: Tensor, strength: float = 1.0) -> Tensor:
    """The share of each source's object that its mask leaves, over the sum of these shares; [M,S] float32.

    `objects` [M,S,h,w] >= 0 of any total, `masks` [M,S,h,w] in [0,1]. A source without an object weighs 0; where
    nothing of any object is visible, the areas, means of the masks. `strength` in [0,1] blends with them, 0 gives them.
    """
    masks, objects = masks.float().clamp(min=0), objects.float()
    areas, whole = masks.mean((2, 3)), objects.sum((2, 3))
    seen = torch.einsum("mshw,mshw->ms", masks, objects)
    visible = torch.where(whole > 0, seen / whole, 0.0)
    total = visible.sum(1, keepdim=True)
    return torch.where(total > 0, torch.lerp(areas, visible / total, strength), areas)


@attrs.define(eq=False, kw_only=True)
class OACutMix:
    """Label weights by how much of each image's object is still seen, for the masks of any mixer."""

    role = "labels"
    spec_version = (1, 2)
    needs = frozenset({"mask"})
    maps = (MAP,)
    reads_partner_pixels = True

    strength: float = attrs.field(default=1.0, validator=[ge(0), le(1)])
    """How much objects count against areas, in [0,1]: 1 objects only, 0 areas only."""

    @hookimpl
    def mix_labels(self, mix: Mix, labels: Tensor, batch: Batch) -> Targets:
        """The mix's sources, each by its object; the mix's own weights without masks, or over constant ones."""
        if mix.varying_masks is None:
            return mix.targets(labels)
        height, width = mix.varying_masks.shape[-2:]
        objects = batch.maps[MAP].float().mean(1)
        if objects.shape[-2:] != (height, width):  # a mask is the same all over a cell, so that the mean of one will do
            objects = F.adaptive_avg_pool2d(objects, (height, width))
        with torch.no_grad():
            masks = mix.masks_on(height, width)
        return mix.targets(labels, object_weights(objects[mix.sources], masks, self.strength))
