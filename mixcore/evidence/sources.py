"""Saliency maps [N,h,w] float32 >= 0 without a graph, from one look at a network or from a forward that was made."""

from __future__ import annotations

import torch
from torch import Tensor

from mixcore.networks.layout import grid_of
from mixcore.networks.network import Network
from mixcore.types import ForwardOutput, Stage

__all__ = ["LAST_STAGE", "attention_map", "attention_of", "energy", "energy_of", "gradient_magnitude", "uniform"]

LAST_STAGE: Stage = -1
"""The last map that the network lists, before the final norm: after it the energy is the same everywhere."""


def gradient_magnitude(gradient: Tensor) -> Tensor:
    """Root mean square over channels of an input gradient [N,C,H,W]: [N,H,W]."""
    return gradient.float().square().mean(1).sqrt()


@torch.no_grad()
def energy(network: Network, images: Tensor) -> Tensor:
    """:func:`energy_of` one forward of the images."""
    return energy_of(network.forward(images, stages=(LAST_STAGE,)))


def energy_of(output: ForwardOutput) -> Tensor:
    """Energy sum_c f² at each position of the last stage f [M,C,h,w], before the final norm: [M,h,w].

    Of a plugin that declares `stages = (LAST_STAGE,)`.
    """
    return output.stages[LAST_STAGE].detach().float().square().sum(1)


@torch.no_grad()
def attention_map(network: Network, images: Tensor) -> Tensor:
    """:func:`attention_of` one forward of the images."""
    return attention_of(network.forward(images, attention=True), *images.shape[-2:])


def attention_of(output: ForwardOutput, height: int, width: int, *, received: bool = False) -> Tensor:
    """Attention of the last block for images of `height` x `width` pixels, on the grid of patches: [M,h,w].

    The class token's row or, where there is none or `received` asks for it, what each patch receives from all patches.
    Of a plugin that needs attention.
    """
    last = output.attention[-1]
    weights = last.received() if received else last.on_patches()
    return weights.unflatten(1, grid_of(weights.shape[1], height, width))


def uniform(images: Tensor) -> Tensor:
    """The same at every pixel: ones [N,H,W], an expanded view."""
    count, _, height, width = images.shape
    return torch.ones((), dtype=torch.float32, device=images.device).expand(count, height, width)
