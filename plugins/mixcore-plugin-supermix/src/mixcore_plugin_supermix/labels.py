"""Labels by the teacher that made the mix."""

from __future__ import annotations

import attrs
import torch
from torch import Tensor

from mixcore.api import Mix, Targets, hookimpl

__all__ = ["MIXED", "TAUGHT", "SuperMixLabels"]

TAUGHT = "supermix_taught"
"""Note: what the teacher says of each mixed image, its class int64 [M] or probabilities [M,K]."""
MIXED = "supermix_mixed"
"""Note: whether the image is a mix, bool [M]; the others are plain images."""


@attrs.define(eq=False, kw_only=True)
class SuperMixLabels:
    """The label that SuperMix's teacher gives to a mixed image; a mix of another kind keeps its own weights."""

    role = "labels"
    accepts = frozenset({"class", "soft"})

    @hookimpl
    def mix_labels(self, mix: Mix, labels: Tensor) -> Targets:
        """One source per mixed image: the teacher's label, or that of the image itself where it was left plain."""
        taught = mix.notes.get(TAUGHT)
        if taught is None:
            return mix.targets(labels)
        soft = taught.is_floating_point()
        if soft or labels.is_floating_point():
            num_classes = (taught if soft else labels).shape[1]
            labels, taught = _rows(labels, num_classes), _rows(taught, num_classes)
        count = labels.shape[0]
        behind = torch.arange(count, count + taught.shape[0], device=taught.device)
        sources = torch.where(mix.notes[MIXED], behind, mix.sources[:, 0])[:, None]
        weights = torch.ones_like(sources, dtype=torch.float32)
        return Targets(labels=torch.cat((labels, taught)), sources=sources, weights=weights, smooth=not soft)


def _rows(labels: Tensor, num_classes: int) -> Tensor:
    """Rows [N,K] float32 of classes [N], or those that they are already."""
    if labels.is_floating_point():
        return labels.float()
    rows = torch.zeros(labels.shape[0], num_classes, device=labels.device)
    return rows.scatter_(1, labels[:, None], 1.0)
