"""What SuperMix minimises, how far it steps, and when a sample is finished.

B samples, K sources of each, C classes, H W pixels, w mask cells a side.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["blur_matrix", "objective", "shows_all", "soft_targets", "spread_masks", "step_sizes"]

SMALLEST_STEP, LARGEST_STEP = 1e-4, 2000.0


def soft_targets(classes: Tensor, shares: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
    """The label t [B,C] float32 of each sample, and which classes are in it, bool [B,C] (step 2).

    `classes` int64 and `shares` [B,K] of the sources; shares of one class add up, and a class of share 0 is in it too.
    """
    targets = shares.new_zeros(shares.shape[0], num_classes, dtype=torch.float32).scatter_add_(1, classes, shares)
    return targets, torch.zeros_like(targets, dtype=torch.bool).scatter_(1, classes, True)


def spread_masks(cells: Tensor, height: int, width: int) -> Tensor:
    """Masks [B,K,H,W] in (0,1) that sum to 1 over the sources, of the variables `cells` [B,K,w,w] (step 3)."""
    fine = F.interpolate(cells, size=(height, width), mode="bilinear", align_corners=False).sigmoid()
    return fine / fine.sum(1, keepdim=True)


def objective(logits: Tensor, targets: Tensor, masks: Tensor, lambda_s: float) -> Tensor:
    """[B] KL(t || softmax of the logits [B,C]) + lambda_s · mean of M(1-M) over sources and pixels (step 4b)."""
    divergence = F.kl_div(logits.log_softmax(1), targets, reduction="none").sum(1)
    return divergence + lambda_s * (masks * (1 - masks)).mean((1, 2, 3))


def blur_matrix(side: int, sigma: float, device: torch.device) -> Tensor:
    """T [w,w] float32: T G Tᵀ is the Gaussian blur of a map G [w,w] with zeros around it (step 4c).

    The kernel has floor(5·sigma) taps; an even one reaches one cell further down and right. Below 0.2 there is no blur.
    """
    length = math.floor(5 * sigma)
    if length == 0:
        return torch.eye(side, dtype=torch.float32, device=device)
    cell = torch.arange(side, dtype=torch.float32, device=device)
    tap = cell - cell[:, None] + (length - 1) // 2
    weight = (-((tap - (length - 1) / 2) ** 2) / (2 * sigma**2)).exp()
    total = sum(math.exp(-((i - (length - 1) / 2) ** 2) / (2 * sigma**2)) for i in range(length))
    return torch.where((tap >= 0) & (tap < length), weight / total, 0.0)


def step_sizes(values: Tensor, gradients: Tensor, smooth: Tensor) -> Tensor:
    """[B] steps that would bring the linearised `values` [B] to 0 along `smooth`, the blurred gradients (step 4d).

    Within [1e-4, 2000]; `gradients` and `smooth` [B,K,w,w].
    """
    slopes = (gradients * smooth).sum((1, 2, 3))
    return (values / (slopes + 1e-10)).clamp(SMALLEST_STEP, LARGEST_STEP)


def shows_all(logits: Tensor, present: Tensor) -> Tensor:
    """[B] whether every class that is `present` [B,C] has a larger logit than every one that is not (step 4e).

    The largest U logits are then those of the U distinct source classes.
    """
    lowest = logits.masked_fill(~present, math.inf).amin(1)
    highest = logits.masked_fill(present, -math.inf).amax(1)
    return lowest > highest
