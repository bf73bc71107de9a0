"""The builtin label policies: `weights`, the mix's own, and `area`, recomputed from the mask."""

from __future__ import annotations

import attrs
import torch
from torch import Tensor

from mixcore.api import Mix, Targets, hookimpl

__all__ = ["Area", "Weights", "area_weights"]


def area_weights(masks: Tensor) -> Tensor:
    """Share [M,S] float32 of the image that each source covers, from the masks [M,S-1,h,w] of all but the last source.

    The mean of each mask over its grid; the last source has what is left of 1.
    """
    shares = masks.mean((2, 3), dtype=torch.float32)
    return torch.cat((shares, 1 - shares.sum(1, keepdim=True)), 1)


@attrs.define(eq=False, kw_only=True)
class Weights:
    """The label weights that the mixer itself gave (lam)."""

    role = "labels"

    @hookimpl
    def mix_labels(self, mix: Mix, labels: Tensor) -> Targets:
        """The mix's own sources and weights."""
        return mix.targets(labels)


@attrs.define(eq=False, kw_only=True)
class Area:
    """Label weights by area: the share of pixels that each source has in the mask.

    Over a mix without masks (Mixup, a clean batch) the mixer's own weights stay.
    """

    role = "labels"
    needs = frozenset({"mask"})

    @hookimpl
    def mix_labels(self, mix: Mix, labels: Tensor) -> Targets:
        """The mix's sources, weighted by the mean of their masks."""
        if mix.masks is None:
            return mix.targets(labels)
        return mix.targets(labels, area_weights(mix.masks))
