"""What a forward of the benchmark's backbones costs, found by their names; on the meta device."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from mixcore.api import Task
from mixcore.discovery.catalogue import find, installed
from mixcore.discovery.load import load
from mixcore_plugins_builtin.backbones.timm_model import TimmBackbone


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "size", "expected"),
    [
        ("resnet18", 224, 1.81),
        ("resnet34", 224, 3.66),
        ("resnet50", 224, 4.09),
        ("resnet101", 224, 7.80),
        ("resnext50_32x4d", 224, 4.23),
        ("resnext101_32x4d", 224, 7.97),
        ("tf_efficientnet_b0", 224, 0.39),
        ("mobilenetv2_100", 224, 0.30),
        ("deit_tiny_patch16_224", 224, 1.25),
        ("deit_small_patch16_224", 224, 4.60),
        ("convnext_tiny", 224, 4.46),
        ("cifar_resnet18", 32, 0.555),
        ("cifar_resnext50_32x4d", 32, 1.344),
        ("cifar_convnext_tiny", 32, 1.453),
        ("wrn28_8", 32, 3.360),
        ("pvt_tiny", 224, 1.93),
        ("moganet_tiny", 224, 1.08),
    ],
)
def test_multiply_adds(name: str, size: int, expected: float) -> None:
    claims = installed()
    plugin = load(find(name, claims))() if name in claims else TimmBackbone(model=name)
    classes = 1000 if size == 224 else 100
    task = Task(num_classes=classes, in_channels=3, image_size=(size, size), mean=(0.5,) * 3, std=(0.5,) * 3)
    with torch.device("meta"), torch.no_grad():
        network = plugin.build_backbone(task).eval()
        with FlopCounterMode(display=False) as counter:
            network(torch.zeros(1, 3, size, size))
    digits = 2 if size == 224 else 3
    assert round(counter.get_total_flops() / 2e9, digits) == expected
