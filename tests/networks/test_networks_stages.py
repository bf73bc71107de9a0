"""Stages by name and by number, and their maps in one layout."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import nn

from mixcore.errors import ConfigError, MixcoreError
from mixcore.networks.layout import as_map, grid_of
from mixcore.networks.network import Network, capabilities
from mixcore.networks.stages import resolve_stage, stage_names


def resnet() -> nn.Module:
    return timm.create_model("resnet10t", num_classes=5)


def vit(**options: object) -> nn.Module:
    return timm.create_model(
        "vit_tiny_patch16_224", num_classes=5, img_size=32, patch_size=8, depth=2, embed_dim=24, num_heads=2, **options
    )


def swin(**options: object) -> nn.Module:
    settings = {
        "img_size": 32,
        "patch_size": 2,
        "window_size": 4,
        "embed_dim": 8,
        "num_heads": (1, 2),
        "depths": (1, 2),
    }
    return timm.create_model("swin_tiny_patch4_window7_224", num_classes=5, **{**settings, **options})


def convnext() -> nn.Module:
    return timm.create_model("convnext_atto", num_classes=5, depths=(1, 1, 1, 1), dims=(8, 16, 24, 32))


def test_stages_are_counted_without_a_stem() -> None:
    assert resnet().feature_info[0]["module"] == "act1"
    assert stage_names(resnet()) == ("layer1", "layer2", "layer3", "layer4")
    assert stage_names(vit()) == ("blocks.0", "blocks.1")
    assert stage_names(swin()) == ("layers.0", "layers.1")
    assert stage_names(convnext()) == ("stages.0", "stages.1", "stages.2", "stages.3")
    assert stage_names(nn.Linear(1, 1)) == ()


def test_a_stage_is_a_number_or_a_module() -> None:
    network = resnet()
    assert resolve_stage(network, 0) is None
    assert resolve_stage(network, 1) == "layer1"
    assert resolve_stage(network, 4) == resolve_stage(network, -1) == "layer4"
    assert resolve_stage(network, "layer3") == "layer3"
    assert resolve_stage(network, "layer3.0.conv1") == "layer3.0.conv1"
    assert resolve_stage(network, "features") == "features"


@pytest.mark.parametrize("stage", [5, -5, "layer9", "blocks.0", ""])
def test_an_unknown_stage_is_refused_naming_those_there_are(stage: str | int) -> None:
    with pytest.raises(ConfigError, match=r"0 \(the input\), 1 \(layer1\), .*4 \(layer4\), features"):
        resolve_stage(resnet(), stage)


def test_the_nearest_spelling_is_offered() -> None:
    with pytest.raises(ConfigError, match=r"did you mean 'layer3'\?"):
        resolve_stage(resnet(), "layr3")


@pytest.mark.parametrize(
    ("make", "stage", "shape"),
    [
        (resnet, 0, (2, 3, 32, 32)),
        (resnet, 1, (2, 64, 8, 8)),
        (resnet, "features", (2, 512, 1, 1)),
        (vit, 1, (2, 24, 4, 4)),
        (vit, "features", (2, 24, 4, 4)),
        (swin, 1, (2, 8, 16, 16)),
        (swin, "features", (2, 16, 8, 8)),
        (convnext, 2, (2, 16, 4, 4)),
    ],
)
def test_maps_come_in_one_layout(make, stage, shape) -> None:
    network = Network(make().eval(), stages=(stage,))
    output = network.forward(torch.randn(2, 3, 32, 32), stages=(stage,))
    assert output.stages[stage].shape == shape


def test_maps_keep_positions() -> None:
    """A change of one patch of the image moves the tokens at that position, and before attention no others."""
    module = vit().eval()
    network = Network(module, stages=("norm_pre",))
    images = torch.randn(1, 3, 32, 32)
    changed = images.clone()
    changed[:, :, 8:16, 24:32] += 1
    before = network.forward(images, stages=("norm_pre",)).stages["norm_pre"]
    after = network.forward(changed, stages=("norm_pre",)).stages["norm_pre"]
    moved = (before - after).abs().sum(1)[0] > 0
    assert moved.nonzero().tolist() == [[1, 3]]


def test_a_late_class_token_costs_no_patch() -> None:
    module = timm.create_model(
        "cait_xxs24_224", num_classes=5, img_size=32, patch_size=8, depth=1, embed_dim=24, num_heads=2
    ).eval()
    output = Network(module, stages=(1,)).forward(torch.randn(2, 3, 32, 32), stages=(1,))
    assert getattr(module, "num_prefix_tokens", 1) == 1  # timm before 1.0.31 does not say it of this network
    assert output.stages[1].shape == (2, 24, 4, 4)


def test_grids_follow_the_image() -> None:
    assert grid_of(196, 224, 224) == (14, 14)
    assert grid_of(32, 64, 32) == (8, 4)
    with pytest.raises(MixcoreError, match="no grid"):
        grid_of(17, 32, 32)


def test_what_has_no_positions_is_no_map() -> None:
    with pytest.raises(MixcoreError, match="no feature map"):
        as_map(resnet(), torch.zeros(2, 5), 32, 32)


def test_capabilities() -> None:
    split = {"features", "head", "tokens"}
    assert capabilities(resnet()) == {"stages", *split, "class_activation"}
    assert capabilities(convnext()) == {"stages", *split, "class_activation"}
    assert capabilities(vit()) == {"stages", *split, "attention"}
    assert capabilities(vit(global_pool="avg")) == {"stages", *split, "attention", "class_activation"}
    assert capabilities(swin()) == {"stages", *split, "attention", "class_activation"}
    assert capabilities(vit(global_pool="map", class_token=False)) == {"stages", *split, "attention"}
    assert "attention" not in capabilities(
        timm.create_model("eva02_tiny_patch14_224", depth=1, embed_dim=24, num_heads=2)
    )
