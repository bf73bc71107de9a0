"""Saliency maps [N,h,w] float32 >= 0 without a graph, each from one look at a network, in its present mode."""

from __future__ import annotations

import torch
from torch import Tensor

from mixcore.networks.layout import grid_of
from mixcore.networks.network import Network
from mixcore.types import Stage

__all__ = ["LAST_STAGE", "attention_map", "energy", "gradient_magnitude", "uniform"]

LAST_STAGE: Stage = -1


def gradient_magnitude(gradient: Tensor) -> Tensor:
    """Root mean square over channels of an input gradient [N,C,H,W]: [N,H,W]."""
    return gradient.float().square().mean(1).sqrt()


@torch.no_grad()
def energy(network: Network, images: Tensor) -> Tensor:
    """Energy sum_c f² at each position of the last stage f, before the final norm."""
    features = network.forward(images, stages=(LAST_STAGE,)).stages[LAST_STAGE]
    return features.float().square().sum(1)


@torch.no_grad()
def attention_map(network: Network, images: Tensor) -> Tensor:
    """Attention of the last block: the class token's row or, where there is none, what each patch receives."""
    weights = network.forward(images, attention=True).attention[-1].on_patches()
    return weights.unflatten(1, grid_of(weights.shape[1], *images.shape[-2:]))


def uniform(images: Tensor) -> Tensor:
    """The same at every pixel: ones [N,H,W], an expanded view."""
    count, _, height, width = images.shape
    return torch.ones((), dtype=torch.float32, device=images.device).expand(count, height, width)
