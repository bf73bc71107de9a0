"""Which classes are in a mixed image. M mixed images, S sources."""

from __future__ import annotations

from torch import Tensor

__all__ = ["merge_classes"]


def merge_classes(classes: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Sum [M,S] of `weights` over all sources of the same class, and bool [M,S]: its class stands there first.

    `classes` int64 [M,S]. The sums where a class stands first are the weights of the classes of the image, each once.
    """
    same = classes[:, :, None] == classes[:, None, :]
    return (same * weights[:, None, :]).sum(2), same.tril(-1).any(2).logical_not()
