"""What published recipes spare from weight decay, by the names of the networks' parameters."""

from __future__ import annotations

import re

import pytest
import timm
import torch

from mixcore.config.schema import OptimizerConfig, ScheduleConfig
from mixcore.step.trained import Trained
from mixcore.train.optimizer import parameter_groups

TOKENS = r"cls_token|pos_embed"
VIT_NORM = r"blocks\.\d+\.norm[12]\.weight|norm\.weight"
SWIN = r"(layers\.\d\.(blocks\.\d\.norm[12]|downsample\.norm)|patch_embed\.norm|norm)\.weight"
TABLES = r"layers\.\d\.blocks\.\d\.attn\.relative_position_bias_table"
CONVNEXT = r"(stem\.1|stages\.\d\.(blocks\.\d\.norm|downsample\.0)|head\.norm)\.weight"
RESNET = r"(bn1|layer\d\.\d+\.(bn\d|downsample\.1))\.weight"


def exempt_names(network: str, exempt: tuple[str, ...]) -> tuple[set[str], set[str]]:
    """Names of the parameters of one of timm's networks: (spared, decaying)."""
    with torch.device("meta"):
        model = timm.create_model(network)
    settings = OptimizerConfig(name="adamw", weight_decay=0.05, exempt=exempt)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    groups = parameter_groups([Trained(name="backbone", module=model)], settings, ScheduleConfig())
    spared, decaying = (
        {names[id(p)] for group in groups if (group["weight_decay"] == 0) == wanted for p in group["params"]}
        for wanted in (True, False)
    )
    assert spared | decaying == set(names.values())
    assert not spared & decaying
    return spared, decaying


@pytest.mark.parametrize(
    ("network", "exempt", "weights", "count"),
    [
        ("deit_small_patch16_224", ("norm_bias", "no_weight_decay"), rf"{VIT_NORM}|{TOKENS}", 25 + 2),
        ("deit_small_patch16_224", ("norm_bias", "*cls_token", "*pos_embed"), rf"{VIT_NORM}|{TOKENS}", 25 + 2),
        ("swin_tiny_patch4_window7_224", ("norm_bias", "no_weight_decay"), rf"{SWIN}|{TABLES}", 29 + 12),
        ("swin_tiny_patch4_window7_224", ("norm_bias", "*relative_position_bias_table"), rf"{SWIN}|{TABLES}", 41),
        ("convnext_tiny", ("norm_bias",), rf"{CONVNEXT}|stages\.\d\.blocks\.\d\.gamma", 23 + 18),
        # Layer scales decay in AutoMix's file.
        ("convnext_tiny", ("*norm*", "*.downsample.0.*", "*stem.1.*", "*bias"), CONVNEXT, 23),
        ("resnet50", ("norm_bias",), RESNET, 53),
        ("resnet50", ("*bn?.*", "*bias"), r"(layer\d\.\d+\.)?bn\d\.weight", 49),  # as published: not of shortcuts
    ],
)
def test_norms_biases_and_what_is_named(network: str, exempt: tuple[str, ...], weights: str, count: int) -> None:
    spared, decaying = exempt_names(network, exempt)
    assert not any(name.endswith("bias") for name in decaying)
    others = {name for name in spared if not name.endswith("bias")}
    assert {name for name in others if not re.fullmatch(weights, name)} == set()
    assert {name for name in decaying if re.fullmatch(weights, name)} == set()
    assert len(others) == count


def test_sgd_recipes_spare_nothing() -> None:
    assert exempt_names("resnet18", ())[0] == set()
