"""What the builtin backbones build: shapes, stems, stages, and what they refuse."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch
from timm.layers import Conv2dSame
from timm.models.efficientnet import EfficientNet
from timm.models.resnet import Bottleneck
from torch import Tensor, nn
from torch.nn import functional as F

from mixcore.api import ConfigError, MixcoreError, Task, stage_shape
from mixcore_plugins_builtin.backbones.cifar import CifarConvNeXtTiny, CifarResNet18, CifarResNet50, use_cifar_stem
from mixcore_plugins_builtin.backbones.timm_model import TimmBackbone
from mixcore_plugins_builtin.backbones.wide_resnet import WideBlock, WideResNet
from mixcore_plugins_builtin.backbones.wrn import WideResNet28x8


def task(*, classes: int = 10, channels: int = 3, size: tuple[int, int] = (32, 32)) -> Task:
    return Task(
        num_classes=classes, in_channels=channels, image_size=size, mean=(0.5,) * channels, std=(0.5,) * channels
    )


def stage_sizes(network: nn.Module, images: Tensor) -> list[tuple[int, int]]:
    """Channels and side of every entry of feature_info, from a real forward."""
    seen: dict[str, tuple[int, int]] = {}
    names = [entry["module"] for entry in network.feature_info]  # type: ignore[union-attr]
    for name in names:
        network.get_submodule(name).register_forward_hook(
            lambda _module, _inputs, output, name=name: seen.__setitem__(name, (output.shape[1], output.shape[-1]))
        )
    with torch.no_grad():
        network.eval()(images)
    return [seen[name] for name in names]


def declared_sizes(network: nn.Module, side: int) -> list[tuple[int, int]]:
    return [(entry["num_chs"], side // entry["reduction"]) for entry in network.feature_info]  # type: ignore[union-attr]


# --- CIFAR variants --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("plugin", "expected"),
    [
        (CifarResNet18, [(64, 32), (64, 32), (128, 16), (256, 8), (512, 4)]),
        (CifarResNet50, [(64, 32), (256, 32), (512, 16), (1024, 8), (2048, 4)]),
        (CifarConvNeXtTiny, [(96, 32), (192, 16), (384, 8), (768, 4)]),
    ],
)
def test_stages_of_cifar_variants_and_what_feature_info_says(plugin: Any, expected: list[tuple[int, int]]) -> None:
    network = plugin().build_backbone(task())
    assert stage_sizes(network, torch.zeros(1, 3, 32, 32)) == expected
    assert declared_sizes(network, 32) == expected


def test_stem_surgery_leaves_everything_else_and_other_models_alone() -> None:
    network = CifarResNet18().build_backbone(task())
    plain = timm.create_model("resnet18", num_classes=10)
    own, other = network.state_dict(), plain.state_dict()
    assert {name for name in own if own[name].shape != other[name].shape} == {"conv1.weight"}
    assert own.keys() == other.keys()
    assert declared_sizes(plain, 32) == [(64, 16), (64, 8), (128, 4), (256, 2), (512, 1)]
    assert isinstance(network.get_submodule("maxpool"), nn.Identity)


def test_no_stem_is_known_for_a_transformer() -> None:
    with pytest.raises(MixcoreError, match="no CIFAR stem is known for VisionTransformer"):
        use_cifar_stem(timm.create_model("test_vit"))


def test_one_channel_and_a_rectangle() -> None:
    network = CifarResNet18().build_backbone(task(channels=1, size=(16, 24)))
    assert network(torch.zeros(2, 1, 16, 24)).shape == (2, 10)


# --- WRN-28-8 --------------------------------------------------------------------------------------------------------


def small_wrn(**options: Any) -> WideResNet:
    return WideResNet(depth=10, widen=1, num_classes=5, **options)


def test_wrn_speaks_the_language_of_timm() -> None:
    network = small_wrn().eval()
    images = torch.randn(2, 3, 16, 24)
    features = network.forward_features(images)
    assert features.shape == (2, 64, 4, 6)
    pooled = network.forward_head(features, pre_logits=True)
    torch.testing.assert_close(pooled, features.mean((2, 3)))
    torch.testing.assert_close(network(images), network.get_classifier()(pooled))
    assert network.num_features == network.head_hidden_size == 64
    network.reset_classifier(7)
    assert (network(images).shape, network.num_classes) == ((2, 7), 7)
    network.reset_classifier(0)
    torch.testing.assert_close(network(images), pooled)
    with pytest.raises(ValueError, match="pools by average only"):
        network.reset_classifier(7, "max")


def test_wrn_stages() -> None:
    network = small_wrn()
    expected = [(16, 32), (32, 16), (64, 8)]
    assert stage_sizes(network, torch.zeros(1, 3, 32, 32)) == expected == declared_sizes(network, 32)


def test_depth_28_has_four_blocks_a_group() -> None:
    with torch.device("meta"):
        network = WideResNet28x8().build_backbone(task())
    assert [len(list(network.get_submodule(f"group{k}").children())) for k in (1, 2, 3)] == [4, 4, 4]
    assert network.num_features == 512


@pytest.mark.parametrize("activated", [False, True])
def test_wide_block_as_its_formula(activated: bool) -> None:
    """Also that activating in place does not reach the block's input."""
    block = WideBlock(4, 8, 2, activate_shortcut=activated)
    for norm in (block.bn1, block.bn2):
        nn.init.uniform_(norm.weight, 0.5, 1.5)
        nn.init.uniform_(norm.bias, -1, 1)
    x = torch.randn(3, 4, 8, 8)
    kept = x.clone()

    def norm_act(map_: Tensor, norm: nn.BatchNorm2d) -> Tensor:
        mean, var = map_.mean((0, 2, 3), keepdim=True), map_.var((0, 2, 3), unbiased=False, keepdim=True)
        scaled = (map_ - mean) / (var + 1e-3).sqrt() * norm.weight[:, None, None] + norm.bias[:, None, None]
        return torch.where(scaled > 0, scaled, 0.1 * scaled)

    a = norm_act(x, block.bn1)
    y = F.conv2d(a, block.conv1.weight, block.conv1.bias, stride=2, padding=1)
    y = F.conv2d(norm_act(y, block.bn2), block.conv2.weight, block.conv2.bias, padding=1)
    shortcut = block.get_submodule("shortcut")
    expected = y + F.conv2d(a if activated else x, shortcut.weight, shortcut.bias, stride=2)  # type: ignore[arg-type]
    torch.testing.assert_close(block(x), expected, atol=1e-5, rtol=1e-4)
    assert torch.equal(x, kept)


def test_only_the_first_block_of_group_1_activates_its_shortcut() -> None:
    network = small_wrn()
    blocks = {name: block for name, block in network.named_modules() if isinstance(block, WideBlock)}
    assert [name for name, block in blocks.items() if block.activate_shortcut] == ["group1.0"]


def test_slow_batch_norm_is_an_option() -> None:
    with torch.device("meta"):
        slow = WideResNet28x8().build_backbone(task())
        fast = WideResNet28x8(bn_momentum=0.1, drop_rate=0.3).build_backbone(task())
    assert {(m.momentum, m.eps) for m in slow.modules() if isinstance(m, nn.BatchNorm2d)} == {(0.001, 1e-3)}
    assert {m.momentum for m in fast.modules() if isinstance(m, nn.BatchNorm2d)} == {0.1}
    assert {m.p for m in fast.modules() if isinstance(m, nn.Dropout)} == {0.3}


def test_wrn_checkpointing_changes_no_gradient() -> None:
    network, images = small_wrn(bn_momentum=0.1), torch.randn(4, 3, 8, 8)
    gradients = []
    for enable in (False, True):
        network.set_grad_checkpointing(enable)
        network.zero_grad()
        network(images).square().sum().backward()
        gradients.append([parameter.grad for parameter in network.parameters()])
    torch.testing.assert_close(gradients[0], gradients[1])


# --- timm ------------------------------------------------------------------------------------------------------------


def test_a_transformer_is_built_for_the_size_of_the_images() -> None:
    network = TimmBackbone(model="deit_tiny_patch16_224").build_backbone(task(channels=1, size=(32, 48)))
    assert network(torch.zeros(2, 1, 32, 48)).shape == (2, 10)


def test_rates_and_further_options_reach_timm() -> None:
    network = TimmBackbone(
        model="resnet18", drop_rate=0.4, drop_path_rate=0.2, options={"act_layer": "silu"}
    ).build_backbone(task())
    assert network.drop_rate == 0.4
    rates = [module.drop_prob for module in network.modules() if type(module).__name__ == "DropPath"]
    assert max(rates) == pytest.approx(0.2)  # type: ignore[type-var]
    assert any(isinstance(module, nn.SiLU) for module in network.modules())


def test_swin_keeps_the_rate_of_timm_unless_told() -> None:
    def rates(**options: Any) -> float:
        with torch.device("meta"):
            plugin = TimmBackbone(model="swin_tiny_patch4_window7_224", **options)
            network = plugin.build_backbone(task(size=(224, 224)))
        return max((m.drop_prob for m in network.modules() if type(m).__name__ == "DropPath"), default=0.0)  # type: ignore

    assert rates() == pytest.approx(0.1)
    assert rates(drop_path_rate=0.2) == pytest.approx(0.2)
    assert rates(drop_path_rate=0.0) == 0


def test_what_the_benchmark_relies_on_in_timm() -> None:
    """Epsilons, padding, activations and rates of the models that its configurations name."""

    def found(model: str, kind: type[nn.Module], attribute: str) -> set[Any]:
        with torch.device("meta"):
            network = TimmBackbone(model=model).build_backbone(task(size=(224, 224)))
        return {getattr(module, attribute) for module in network.modules() if isinstance(module, kind)}

    assert found("tf_efficientnet_b0", nn.BatchNorm2d, "eps") == {1e-3}
    assert found("tf_efficientnet_b0", Conv2dSame, "stride") == {(2, 2)}
    assert found("tf_efficientnet_b0", EfficientNet, "drop_rate") == {0.0}
    assert found("mobilenetv2_100", nn.BatchNorm2d, "eps") == {1e-5}
    assert found("mobilenetv2_100", nn.ReLU6, "inplace") == {True}
    assert found("resnet50", nn.BatchNorm2d, "momentum") == {0.1}
    assert found("deit_tiny_patch16_224", nn.LayerNorm, "eps") == {1e-6}
    assert found("convnext_tiny", nn.LayerNorm, "eps") == {1e-6}


def test_what_timm_spares_from_weight_decay() -> None:
    def spared(model: str) -> set[str]:
        with torch.device("meta"):
            network = TimmBackbone(model=model).build_backbone(task(size=(224, 224)))
        return {name for name, _ in network.named_parameters() if name in network.no_weight_decay()}  # type: ignore

    assert spared("deit_tiny_patch16_224") == {"cls_token", "pos_embed"}
    tables = spared("swin_tiny_patch4_window7_224")
    assert len(tables) == 12
    assert all(name.endswith("relative_position_bias_table") for name in tables)


def test_drop_path_of_a_resnet_is_linear_from_zero() -> None:
    with torch.device("meta"):
        network = TimmBackbone(model="resnet50", drop_path_rate=0.05).build_backbone(task())
    blocks = [module for module in network.modules() if isinstance(module, Bottleneck)]
    rates = [0.0 if block.drop_path is None else block.drop_path.drop_prob for block in blocks]
    assert rates == pytest.approx([0.05 * number / 15 for number in range(16)])


def test_the_map_behind_the_last_merging_of_swin_is_a_stage() -> None:
    """Where the published AutoMix runs of Swin-T read their features."""
    its_task = task(size=(224, 224))
    network = TimmBackbone(model="swin_tiny_patch4_window7_224").build_backbone(its_task)
    assert stage_shape(network, "layers.3.downsample", its_task) == (768, 7, 7)
    assert stage_shape(network, 3, its_task) == (384, 14, 14)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": "resnet180"}, r"'resnet180' is no installed plugin and no model of timm .*did you mean .*resnet18"),
        ({"model": "pvt_tiny"}, r'in mixcore-plugin-pvt: pip install mixcore-plugin-pvt, .*name = "pvt_tiny"'),
        ({"model": "resnet18.nonsense"}, r"timm refuses backbone 'resnet18\.nonsense'.*tag"),
        ({"model": "resnet18", "options": {"foo": 1}}, r"timm refuses backbone 'resnet18' with foo = 1.*'foo'"),
        ({"model": "vgg11", "drop_path_rate": 0.1}, r"timm refuses backbone 'vgg11'.*drop_path_rate"),
        ({"model": "resnet18", "pretrained": True, "weights": "x.pt"}, "pretrained = true goes with neither"),
        ({"model": "resnet18", "pretrained": True, "init": "torch"}, "pretrained = true goes with neither"),
    ],
)
def test_what_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        TimmBackbone(**options).build_backbone(task())


def test_weights_that_cannot_be_fetched_name_the_other_way(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_args: Any, **_kwargs: Any) -> None:
        raise ConnectionError("no route")

    monkeypatch.setattr(timm, "create_model", refuse)
    with pytest.raises(ConfigError, match=r"'resnet18' cannot be fetched: no route; .*weights = "):
        TimmBackbone(model="resnet18", pretrained=True).build_backbone(task())


@pytest.mark.parametrize(
    "bad", [{"drop_rate": 1.0}, {"drop_path_rate": -0.1}, {"init": "zeros"}, {"model": ""}, {"model": 1}]
)
def test_values_out_of_range(bad: dict[str, Any]) -> None:
    with pytest.raises((ValueError, TypeError)):
        TimmBackbone(**{"model": "resnet18", **bad})
