"""Sizes of stages and heads, read from a forward."""

from __future__ import annotations

import pytest
import timm
import torch

from mixcore.errors import ConfigError
from mixcore.networks.layout import patch_side, token_grid
from mixcore.networks.shapes import head_width, stage_shape
from mixcore.types import Task

TASK = Task(num_classes=5, in_channels=3, image_size=(64, 32), mean=(0.0,) * 3, std=(1.0,) * 3)


def network(name: str, **options: object) -> torch.nn.Module:
    return timm.create_model(name, num_classes=5, **options)


@pytest.mark.parametrize(
    ("name", "options", "stage", "shape"),
    [
        ("resnet10t", {}, 3, (256, 4, 2)),
        ("resnet10t", {}, "layer1", (64, 16, 8)),
        ("resnet10t", {}, 0, (3, 64, 32)),
        ("resnet10t", {}, "features", (512, 2, 1)),
        ("vit_tiny_patch16_224", {"img_size": (64, 32), "patch_size": 8, "depth": 2}, "blocks.1", (192, 8, 4)),
        ("swin_tiny_patch4_window7_224", {"img_size": (64, 32), "depths": (1, 1, 1, 1)}, "layers.2", (384, 4, 2)),
        (
            "swin_tiny_patch4_window7_224",
            {"img_size": (64, 32), "depths": (1, 1, 1, 1)},
            "layers.3.downsample",
            (768, 2, 1),
        ),
        ("convnext_atto", {}, 3, (160, 4, 2)),
    ],
)
def test_the_shape_of_a_stage(name: str, options: dict[str, object], stage: str | int, shape: tuple[int, ...]) -> None:
    model = network(name, **options).train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    assert stage_shape(model, stage, TASK) == shape
    assert all(part.training for part in model.modules())
    assert not any(part._forward_hooks for part in model.modules()), "no tap is left behind"
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_the_width_of_a_head() -> None:
    assert head_width(network("resnet10t"), TASK) == 512
    # its head has a hidden layer, so that num_features (960 channels) would be wrong
    assert head_width(network("mobilenetv3_large_100"), TASK) == 1280


@pytest.mark.parametrize(
    ("stage", "message"),
    [
        ("layer9", r"no stage 'layer9'; its stages: 0 \(the input\), 1 \(layer1\)"),
        ("fc", r"stage 'fc' of ResNet is not called by a forward"),
    ],
)
def test_a_stage_that_gives_no_map_is_refused(stage: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        stage_shape(network("resnet10t"), stage, TASK)


@pytest.mark.parametrize(
    ("name", "options", "side"),
    [
        ("vit_tiny_patch16_224", {"depth": 1}, 16),
        ("vit_tiny_patch16_224", {"patch_size": 14, "depth": 2}, 14),
        ("deit_tiny_distilled_patch16_224", {"depth": 2}, 16),
        ("swin_tiny_patch4_window7_224", {"img_size": (64, 32), "depths": (1, 1, 1, 1)}, None),
        ("resnet10t", {}, None),
    ],
)
def test_the_side_of_patches_that_stay_as_they_are(name: str, options: dict[str, object], side: int | None) -> None:
    assert patch_side(network(name, **options)) == side


def test_a_network_that_does_not_say_has_no_patches() -> None:
    assert patch_side(torch.nn.Linear(2, 2)) is None


def test_the_grid_of_whole_patches() -> None:
    assert token_grid(16, 224, 32) == (14, 2)
    assert token_grid(16, 40, 8) == (2, 1), "what is left over belongs to other patches"
    assert token_grid(None, 224, 448) == (14, 14)
    assert token_grid(None, 224, 10) == (14, 10)
