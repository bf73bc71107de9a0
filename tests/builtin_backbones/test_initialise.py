"""How weights start: standard deviations against their formulas."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mixcore.api import ConfigError, Task
from mixcore_plugins_builtin.backbones.cifar import CifarConvNeXtTiny, CifarResNet18
from mixcore_plugins_builtin.backbones.initialise import initialise
from mixcore_plugins_builtin.backbones.timm_model import TimmBackbone
from mixcore_plugins_builtin.backbones.wide_resnet import WideResNet

TASK = Task(num_classes=100, in_channels=3, image_size=(32, 32), mean=(0.5,) * 3, std=(0.5,) * 3)


@pytest.fixture(autouse=True)
def _fixed_draws() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def build(model: str, **options: Any) -> nn.Module:
    return TimmBackbone(model=model, **options).build_backbone(TASK)


def std(network: nn.Module, name: str) -> float:
    return network.get_parameter(name).std().item()


def about(value: float) -> Any:
    return pytest.approx(value, rel=0.05)


def uniform_std(network: nn.Module, name: str) -> float:
    """Of PyTorch's own constructor: uniform in +-1 / sqrt(fan_in)."""
    return 1 / math.sqrt(3 * network.get_parameter(name)[0].numel())


def is_constant(tensor: Tensor, value: float) -> bool:
    return bool((tensor == value).all())


def test_default_keeps_timm_and_narrows_the_classifier_of_a_cnn() -> None:
    network = build("resnet18")
    assert std(network, "fc.weight") == about(0.01)
    assert is_constant(network.get_parameter("fc.bias"), 0)
    assert std(network, "layer3.1.conv1.weight") == about(0.0294)  # sqrt(2 / (9 * 256))
    assert is_constant(network.get_parameter("layer3.1.bn2.weight"), 0)


def test_default_leaves_a_transformer_to_timm() -> None:
    network = build("deit_tiny_patch16_224")
    assert std(network, "head.weight") == about(0.02)
    assert std(network, "patch_embed.proj.weight") == about(0.02)


def test_the_new_stem_starts_like_the_other_convolutions() -> None:
    network = CifarResNet18().build_backbone(TASK)
    assert std(network, "conv1.weight") == about(math.sqrt(2 / (9 * 64)))
    convnext = CifarConvNeXtTiny().build_backbone(TASK)
    assert std(convnext, "stem.0.weight") == about(math.sqrt(2 / (9 * 96)))
    assert is_constant(convnext.get_parameter("stem.0.bias"), 0)


def test_reference_of_resnets() -> None:
    network = build("resnet18", init="reference")
    assert std(network, "layer4.0.downsample.0.weight") == about(math.sqrt(2 / 512))
    assert is_constant(network.get_parameter("layer1.0.bn2.weight"), 0)
    assert is_constant(network.get_parameter("layer1.0.bn1.weight"), 1)
    assert std(network, "fc.weight") == about(0.01)


def test_reference_of_wide_resnets() -> None:
    network = WideResNet(depth=10, widen=4)
    initialise(network, "reference")
    assert std(network, "group3.0.conv2.weight") == about(math.sqrt(2 / (9 * 256)))
    assert is_constant(network.get_parameter("group3.0.conv2.bias"), 0)
    assert is_constant(network.get_parameter("group3.0.bn2.weight"), 1)
    assert std(network, "fc.weight") == about(0.01)


def test_reference_of_vision_transformers() -> None:
    network = build("deit_tiny_patch16_224", init="reference")
    for name in ("blocks.5.mlp.fc1.weight", "head.weight", "cls_token", "pos_embed"):
        assert std(network, name) == pytest.approx(0.02, rel=0.15), name
    assert std(network, "patch_embed.proj.weight") == about(uniform_std(network, "patch_embed.proj.weight"))
    assert is_constant(network.get_parameter("blocks.5.mlp.fc1.bias"), 0)


def test_reference_of_convnext() -> None:
    network = build("convnext_tiny", init="reference")
    assert std(network, "stages.1.downsample.1.weight") == about(1 / math.sqrt(4 * 96))
    assert std(network, "stages.1.blocks.0.conv_dw.weight") == about(1 / 7)
    assert std(network, "stages.1.blocks.0.mlp.fc1.weight") == about(0.02)
    assert std(network, "head.fc.weight") == about(0.01)
    assert is_constant(network.get_parameter("stages.1.blocks.0.gamma"), 1e-6)


def test_reference_of_mobilenet() -> None:
    network = build("mobilenetv2_100", init="reference")
    # depthwise: fan_out counts outputs times kernel, not divided by the groups
    assert std(network, "blocks.3.0.conv_dw.weight") == pytest.approx(math.sqrt(2 / (9 * 192)), rel=0.1)
    assert std(network, "conv_head.weight") == about(math.sqrt(2 / 1280))
    assert std(network, "classifier.weight") == about(0.01)


def test_reference_of_efficientnet() -> None:
    network = build("tf_efficientnet_b0", init="reference")
    assert std(network, "conv_head.weight") == about(math.sqrt(2 / 1280))
    assert std(network, "blocks.5.0.conv_pwl.weight") == about(math.sqrt(2 / 192))
    assert is_constant(network.get_parameter("blocks.5.0.se.conv_reduce.bias"), 0)
    assert is_constant(network.get_parameter("bn2.weight"), 1)
    assert std(network, "classifier.weight") == about(0.01)


def test_reference_of_swin() -> None:
    network = build("swin_tiny_patch4_window7_224", init="reference")
    for name in ("layers.1.blocks.0.attn.qkv.weight", "layers.2.downsample.reduction.weight"):
        assert std(network, name) == about(0.02), name
    assert is_constant(network.get_parameter("layers.1.blocks.0.attn.qkv.bias"), 0)
    assert std(network, "patch_embed.proj.weight") == about(uniform_std(network, "patch_embed.proj.weight"))
    assert std(network, "head.fc.weight") == about(0.01)


def test_torch_is_what_the_constructors_of_pytorch_do() -> None:
    network = build("resnet18", init="torch")
    for name in ("conv1.weight", "layer3.1.conv1.weight", "fc.weight"):
        assert std(network, name) == about(uniform_std(network, name)), name
    assert is_constant(network.get_parameter("layer3.1.bn2.weight"), 1)
    vit = build("deit_tiny_patch16_224", init="torch")
    assert std(vit, "head.weight") == about(uniform_std(vit, "head.weight"))
    assert is_constant(vit.get_parameter("pos_embed"), 0)
    assert is_constant(vit.get_parameter("cls_token"), 0)


def test_reference_is_refused_where_the_benchmark_has_none() -> None:
    with pytest.raises(ConfigError, match=r'"reference" is known for ConvNeXt, .*this network is a VGG'):
        build("vgg11", init="reference")


def test_the_global_generator_decides() -> None:
    torch.manual_seed(7)
    first = build("resnet18").state_dict()
    torch.manual_seed(7)
    again = build("resnet18").state_dict()
    assert all(torch.equal(value, again[name]) for name, value in first.items())
