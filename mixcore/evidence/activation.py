"""Class activation maps: how much each position adds to a logit."""

from __future__ import annotations

import torch
from torch import Tensor

from mixcore.autocast import autocast_off
from mixcore.errors import MixcoreError
from mixcore.networks.interface import without_interface
from mixcore.networks.layout import as_map
from mixcore.networks.network import Network, capabilities
from mixcore.networks.scales import looking_scale

__all__ = ["class_activation"]


def class_activation(network: Network, images: Tensor, labels: Tensor) -> Tensor:
    """What each position of the last feature map adds to the logit of the image's label, [N,h,w] float32, signed.

    A_k being channel k and G_k the logit's gradient at it, the map is sum_k (sum_hw G_k) A_k. With average pooling and
    a linear classifier this is the class activation map sum_k w_yk A_k (Zhou et al., CVPR 2016); its positive part
    is Grad-CAM (Selvaraju et al., ICCV 2017) times h·w. With `labels` float [N,K] the logits are weighted by them.
    In the network's present mode. MixcoreError where the head does not pool over positions.
    """
    if not network.passes.split:
        raise MixcoreError(f"class activation maps need features and head apart; {without_interface(network.module)}")
    if "class_activation" not in capabilities(network.module):
        raise MixcoreError(
            f"{type(network.module).__name__} has no class activation maps: its head reads a class token, or does not "
            "end in one linear classifier; use a network that averages over positions, or another saliency"
        )
    with torch.no_grad():
        features = network.forward(images).features.detach().float()
    with torch.enable_grad():
        features.requires_grad_()
        logits = network.logits(features)
        chosen = logits * labels if labels.is_floating_point() else logits.gather(1, labels[:, None])
        scale = looking_scale(network.gradient_scale(images.device))
        (gradient,) = torch.autograd.grad(chosen.sum() * scale, features)
    height, width = images.shape[-2:]
    maps = as_map(network.module, features.detach(), height, width)
    weights = as_map(network.module, gradient, height, width).sum((2, 3)) / scale
    with autocast_off(images.device):
        return torch.einsum("nc,nchw->nhw", weights, maps)
