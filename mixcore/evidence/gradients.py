"""Gradients with respect to the input."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from mixcore.evidence.settle import settled
from mixcore.networks.network import Network
from mixcore.networks.scales import looking_scale

__all__ = ["input_gradient", "input_gradient_and_loss"]


def input_gradient(network: Network, images: Tensor, criterion: Callable[[Tensor], Tensor]) -> Tensor:
    """d criterion(logits) / d images, [N,C,H,W], in the network's present mode; parameters are left alone."""
    with torch.enable_grad():
        leaf = images.detach().requires_grad_()
        loss = criterion(network.forward(leaf).logits)
        scale = looking_scale(network.gradient_scale(images.device))
        (gradient,) = torch.autograd.grad(loss * scale, leaf)
    return gradient / scale


def input_gradient_and_loss(
    network: Network, images: Tensor, criterion: Callable[[Tensor], Tensor]
) -> tuple[Tensor, Tensor]:
    """The same from one forward and backward that also settles the loss for the network's parameters."""
    with torch.enable_grad():
        leaf = images.detach().requires_grad_()
        loss = criterion(network.forward(leaf).logits)
        scale = network.gradient_scale(images.device)
        wanted = [parameter for parameter in network.module.parameters() if parameter.requires_grad]
        gradient, *gradients = torch.autograd.grad(loss * scale, [leaf, *wanted], allow_unused=True)
        used = [(p, g) for p, g in zip(wanted, gradients, strict=True) if g is not None]
        delivered = settled(loss, [p for p, _ in used], [g for _, g in used], scale)
    return gradient / scale, delivered
