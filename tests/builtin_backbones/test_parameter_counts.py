"""Sizes of the backbones, as computed from their published descriptions; on the meta device, so without memory."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from mixcore.api import Task
from mixcore_plugins_builtin.backbones.cifar import (
    CifarConvNeXtTiny,
    CifarResNet18,
    CifarResNet34,
    CifarResNet50,
    CifarResNeXt50,
)
from mixcore_plugins_builtin.backbones.timm_model import TimmBackbone
from mixcore_plugins_builtin.backbones.wide_resnet import WideResNet
from mixcore_plugins_builtin.backbones.wrn import WideResNet28x8


def task(classes: int, size: int = 224) -> Task:
    return Task(num_classes=classes, in_channels=3, image_size=(size, size), mean=(0.5,) * 3, std=(0.5,) * 3)


def count(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


@pytest.mark.parametrize(
    ("model", "thousand", "hundred"),
    [
        ("resnet18", 11_689_512, 11_227_812),
        ("resnet34", 21_797_672, 21_335_972),
        ("resnet50", 25_557_032, 23_712_932),
        ("resnet101", 44_549_160, 42_705_060),
        ("resnext50_32x4d", 25_028_904, 23_184_804),
        ("resnext101_32x4d", 44_177_704, 42_333_604),
        ("tf_efficientnet_b0", 5_288_548, 4_135_648),
        ("mobilenetv2_100", 3_504_872, 2_351_972),
        ("deit_tiny_patch16_224", 5_717_416, 5_543_716),
        ("deit_small_patch16_224", 22_050_664, 21_704_164),
        ("swin_tiny_patch4_window7_224", 28_288_354, 27_596_254),
        ("convnext_tiny", 28_589_128, 27_897_028),
    ],
)
def test_timm(model: str, thousand: int, hundred: int) -> None:
    with torch.device("meta"):
        assert count(TimmBackbone(model=model).build_backbone(task(1000))) == thousand
        assert count(TimmBackbone(model=model).build_backbone(task(100))) == hundred


@pytest.mark.parametrize(
    ("model", "classes", "expected"),
    [
        ("resnet18", 200, 11_279_112),
        ("resnet50", 5089, 33_935_393),
        ("resnet50", 8142, 40_190_990),
        ("resnet50", 205, 23_928_077),
    ],
)
def test_other_numbers_of_classes(model: str, classes: int, expected: int) -> None:
    with torch.device("meta"):
        assert count(TimmBackbone(model=model).build_backbone(task(classes))) == expected


@pytest.mark.parametrize(
    ("plugin", "ten", "hundred", "two_hundred"),
    [
        (CifarResNet18, 11_173_962, 11_220_132, 11_271_432),
        (CifarResNet34, 21_282_122, 21_328_292, 21_379_592),
        (CifarResNet50, 23_520_842, 23_705_252, 23_910_152),
        (CifarResNeXt50, 22_992_714, 23_177_124, 23_382_024),
        (CifarConvNeXtTiny, 27_895_012 - 90 * 769, 27_895_012, 27_895_012 + 100 * 769),
        (WideResNet28x8, 23_362_922, 23_409_092, 23_409_092 + 100 * 513),
    ],
)
def test_cifar_variants(plugin: Any, ten: int, hundred: int, two_hundred: int) -> None:
    with torch.device("meta"):
        sizes = [count(plugin().build_backbone(task(classes, 32))) for classes in (10, 100, 200)]
    assert sizes == [ten, hundred, two_hundred]


def test_wide_resnets() -> None:
    with torch.device("meta"):
        assert count(WideResNet(depth=28, widen=10)) == 36_546_980
        network = WideResNet(depth=28, widen=8)
    biases = sum(m.bias.numel() for m in network.modules() if isinstance(m, nn.Conv2d) and m.bias is not None)
    assert biases == 8_080
    assert count(network) - biases == 23_401_012
