"""CIFAR variants of timm's networks: the same network with a stem that does not shrink small images."""

from __future__ import annotations

from typing import Any, ClassVar

import attrs
from timm.models.convnext import ConvNeXt
from timm.models.resnet import ResNet
from torch import nn

from mixcore.api import MixcoreError, Task, hookimpl
from mixcore_plugins_builtin.backbones.initialise import kaiming_fan_out
from mixcore_plugins_builtin.backbones.timm_model import TimmOptions, create_timm_model

__all__ = [
    "CifarConvNeXtTiny",
    "CifarResNeXt50",
    "CifarResNet18",
    "CifarResNet34",
    "CifarResNet50",
    "use_cifar_stem",
]

_STEM_STRIDE = 4
"""How much the stems that are replaced shrink an image: 7x7/2 and max pooling /2, or 4x4/4."""


def use_cifar_stem(network: nn.Module) -> nn.Module:
    """Replace the stem in place: a 3x3 convolution of stride 1, no pooling; the stages then run at 1, 1/2, 1/4, 1/8.

    The new convolution is Kaiming normal fan-out, bias 0. `feature_info` says the new reductions.
    """
    if isinstance(network, ResNet):
        network.set_submodule("conv1", _stem_convolution(network.conv1))
        network.set_submodule("maxpool", nn.Identity())
    elif isinstance(network, ConvNeXt):
        network.set_submodule("stem.0", _stem_convolution(network.stem[0]))
    else:
        raise MixcoreError(f"no CIFAR stem is known for {type(network).__name__}; a timm ResNet or ConvNeXt has one")
    stages: list[dict[str, Any]] = network.feature_info
    for entry in stages:
        entry["reduction"] = max(1, entry["reduction"] // _STEM_STRIDE)
    return network


def _stem_convolution(old: Any) -> nn.Conv2d:
    new = nn.Conv2d(old.in_channels, old.out_channels, 3, 1, 1, bias=old.bias is not None)
    kaiming_fan_out(new.weight)
    if new.bias is not None:
        nn.init.zeros_(new.bias)
    return new


@attrs.define(eq=False, kw_only=True)
class _CifarVariant(TimmOptions):
    timm_name: ClassVar[str]

    @hookimpl
    def build_backbone(self, task: Task) -> nn.Module:
        """The network, on the CPU, in train mode."""
        network = create_timm_model(self.timm_name, task, drop_rate=self.drop_rate, drop_path_rate=self.drop_path_rate)
        return self.start(use_cifar_stem(network))


@attrs.define(eq=False, kw_only=True)
class CifarResNet18(_CifarVariant):
    """ResNet-18 for small images: 3x3 stem of stride 1, no pooling; 11,220,132 parameters at 100 classes."""

    timm_name: ClassVar[str] = "resnet18"


@attrs.define(eq=False, kw_only=True)
class CifarResNet34(_CifarVariant):
    """ResNet-34 for small images: 3x3 stem of stride 1, no pooling; 21,328,292 parameters at 100 classes."""

    timm_name: ClassVar[str] = "resnet34"


@attrs.define(eq=False, kw_only=True)
class CifarResNet50(_CifarVariant):
    """ResNet-50 for small images: 3x3 stem of stride 1, no pooling; 23,705,252 parameters at 100 classes."""

    timm_name: ClassVar[str] = "resnet50"


@attrs.define(eq=False, kw_only=True)
class CifarResNeXt50(_CifarVariant):
    """ResNeXt-50 32x4d for small images: 3x3 stem of stride 1, no pooling; 23,177,124 parameters at 100 classes."""

    timm_name: ClassVar[str] = "resnext50_32x4d"


@attrs.define(eq=False, kw_only=True)
class CifarConvNeXtTiny(_CifarVariant):
    """ConvNeXt-T for small images: 3x3 stem of stride 1; 27,895,012 parameters at 100 classes."""

    timm_name: ClassVar[str] = "convnext_tiny"
