"""Adversarial noise on the images of a puzzle, in units of pixels in [0,1]."""

from __future__ import annotations

import torch
from torch import Generator, Tensor

__all__ = ["add_noise", "adversarial_noise", "uniform_noise"]

STEP_BEYOND = 2.0
"""By how many 255ths the step along the gradient's sign exceeds the bound on the noise."""


@torch.no_grad()
def uniform_noise(images: Tensor, mean: Tensor, std: Tensor, bound: float, rng: Generator) -> Tensor:
    """Noise like `images` [N,C,H,W], uniform in ±`bound` and such that pixels stay in [0,1]. `mean`, `std` [C,1,1]."""
    noise = torch.rand(images.shape, dtype=torch.float32, device=images.device, generator=rng)
    noise.mul_(2 * bound).sub_(bound)
    pixels = images.float() * std + mean
    return (pixels + noise).clamp_(0, 1).sub_(pixels)


@torch.no_grad()
def adversarial_noise(noise: Tensor, gradient: Tensor, bound: float, strength: float) -> Tensor:
    """The noise after a step up the loss, cut to ±`bound`, times `strength` in [0,1]."""
    return (
        torch.add(noise, gradient.float().sign(), alpha=bound + STEP_BEYOND / 255).clamp_(-bound, bound).mul_(strength)
    )


@torch.no_grad()
def add_noise(images: Tensor, noise: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Normalised images with the noise on their pixels, kept in [0,1], in the dtype of `images`."""
    pixels = torch.addcmul(mean, images.float(), std).add_(noise).clamp_(0, 1)
    return pixels.sub_(mean).div_(std).to(images.dtype)
