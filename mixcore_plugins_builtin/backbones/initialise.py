"""How the weights of a backbone start.

`default`: timm's own initialisation with a classifier of Normal(0, 0.01), bias 0 (transformers with position embedding
or class token keep timm's). `reference`: the initialisers of the benchmark whose published numbers are compared with.
`torch`: PyTorch's constructors untouched. All draw from the global generator, as torch.nn.init does.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import attrs
from timm.layers import lecun_normal_, trunc_normal_
from timm.models.convnext import ConvNeXt
from timm.models.efficientnet import EfficientNet
from timm.models.resnet import BasicBlock, Bottleneck, ResNet
from timm.models.swin_transformer import SwinTransformer
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from mixcore.api import ConfigError, classifiers
from mixcore_plugins_builtin.backbones.wide_resnet import WideResNet

__all__ = ["Init", "initialise", "kaiming_fan_out"]

Init = Literal["default", "reference", "torch"]
_TOKENS = ("pos_embed", "cls_token")
_NORMS = (_BatchNorm, nn.LayerNorm, nn.GroupNorm)


def kaiming_fan_out(weight: Tensor) -> None:
    """Normal(0, sqrt(2 / fan_out)) with fan_out = outputs · kernel area, whatever the groups (arXiv 1502.01852)."""
    nn.init.kaiming_normal_(weight, mode="fan_out", nonlinearity="relu")


@attrs.frozen
class _Family:
    """The benchmark's initialiser of one family of networks; linears are always truncated normal 0.02, norms 1 / 0."""

    convolution: Callable[[Tensor], object] | None
    """Of convolution weights, biases 0; None: PyTorch's own."""
    last_norm_zero: bool = False
    """Whether the last norm of every residual block starts at 0."""
    wide_head: bool = False
    """Whether the classifier is truncated normal 0.02 like other linears, instead of Normal(0, 0.01)."""


_FAMILIES: dict[type[nn.Module], _Family] = {
    ConvNeXt: _Family(lecun_normal_),
    EfficientNet: _Family(kaiming_fan_out),
    ResNet: _Family(kaiming_fan_out, last_norm_zero=True),
    SwinTransformer: _Family(None),
    VisionTransformer: _Family(None, wide_head=True),
    WideResNet: _Family(kaiming_fan_out),
}


def initialise(network: nn.Module, init: Init, *, new_classifier: bool = True) -> None:
    """Initialise a network that was just built.

    `new_classifier = False` keeps a classifier that came with pretrained weights. ConfigError for "reference" on a
    family that the benchmark does not have.
    """
    if init == "torch":
        _as_torch(network)
    elif init == "reference":
        _as_reference(network, _family(network))
    elif new_classifier and not any(name in _TOKENS for name, _ in network.named_parameters(recurse=False)):
        _narrow_classifier(network)


def _narrow_classifier(network: nn.Module) -> None:
    for classifier in classifiers(network):
        nn.init.normal_(classifier.weight, std=0.01)
        _fill(classifier.bias, 0.0)


def _family(network: nn.Module) -> _Family:
    for known, family in _FAMILIES.items():
        if isinstance(network, known):
            return family
    names = ", ".join(sorted(known.__name__ for known in _FAMILIES))
    raise ConfigError(
        f'backbone.init = "reference" is known for {names}; this network is a {type(network).__name__}: '
        'use "default" or "torch"'
    )


def _as_reference(network: nn.Module, family: _Family) -> None:
    for module in network.modules():
        if isinstance(module, nn.Conv2d) and family.convolution is None:
            module.reset_parameters()
        elif isinstance(module, nn.Conv2d) and family.convolution is not None:
            family.convolution(module.weight)
            _fill(module.bias, 0.0)
        elif isinstance(module, nn.Linear):
            trunc_normal_(module.weight, std=0.02)
            _fill(module.bias, 0.0)
        elif isinstance(module, _NORMS):
            _fill(module.weight, 1.0)
            _fill(module.bias, 0.0)
    for name, parameter in network.named_parameters(recurse=False):
        if name in _TOKENS:
            trunc_normal_(parameter, std=0.02)
    if family.last_norm_zero:
        for module in network.modules():
            if isinstance(module, (BasicBlock, Bottleneck)):
                module.zero_init_last()
    if not family.wide_head:
        _narrow_classifier(network)


def _as_torch(network: nn.Module) -> None:
    for module in network.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear, *_NORMS)):
            module.reset_parameters()
    for name, parameter in network.named_parameters(recurse=False):
        if name in _TOKENS:
            nn.init.zeros_(parameter)


def _fill(tensor: Tensor | None, value: float) -> None:
    if tensor is not None:
        nn.init.constant_(tensor, value)
