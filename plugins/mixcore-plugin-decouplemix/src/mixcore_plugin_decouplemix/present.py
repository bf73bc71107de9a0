"""Which classes are in a mixed image, and with what weight, without leaving the device.

M mixed images, S sources.
"""

from __future__ import annotations

from torch import Tensor

from mixcore.api import MixcoreError, Targets

__all__ = ["classes_of", "rescaled"]

LEAST_WEIGHT = 1e-3
"""A class of less weight than this is not in the mix."""


def classes_of(targets: Targets, loss: str) -> Tensor:
    """[M,S] the class of each source. MixcoreError where the labels are rows over classes."""
    if targets.labels.is_floating_point():
        raise MixcoreError(
            f"{loss} needs to know the classes of a mix, found labels {list(targets.labels.shape)} of "
            f"{targets.labels.dtype}; use a label policy that leaves class labels as they are, or another [loss]"
        )
    return targets.labels[targets.sources]


def rescaled(weights: Tensor, xi: float, threshold: float) -> Tensor:
    """r(l) = 1 where l >= threshold, else (l / threshold)^xi; 0 for a class that is not in the mix."""
    scaled = (weights / threshold).clamp(0, 1).pow(xi)
    return scaled * (weights >= LEAST_WEIGHT)
