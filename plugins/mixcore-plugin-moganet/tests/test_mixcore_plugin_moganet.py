"""MogaNet: sizes, an independent plain forward, the gate in float32, stages, and how it starts."""

from __future__ import annotations

import math
from pathlib import Path
from typing import ClassVar

import attrs
import pytest
import torch
from mixcore_plugin_moganet import CifarMogaNetTiny, MogaNet, MogaNetSmall, MogaNetTiny, MogaNetXTiny
from mixcore_plugin_moganet.block import Block, GatedAggregation
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

import mixcore
from mixcore.api import Task, capabilities, stage_shape
from mixcore.testing import PluginContract, run_example

TINY = ((32, 64, 128, 256), (3, 3, 12, 2))
THIN = ((8, 16, 24, 32), (1, 1, 2, 1))


def task(classes=1000, size=(224, 224), channels=3):
    return Task(
        num_classes=classes, in_channels=channels, image_size=size, mean=(0.5,) * channels, std=(0.5,) * channels
    )


def count(network):
    return sum(parameter.numel() for parameter in network.parameters())


def thin(**options):
    return MogaNet(*THIN, num_classes=5, **options)


def shaken(network):
    """No parameter or statistic at a value under which a term of the formulas would vanish."""
    torch.manual_seed(0)
    for name, tensor in network.state_dict().items():
        if name.endswith("running_var"):
            nn.init.uniform_(tensor, 0.5, 1.5)
        elif name.endswith(("scale.weight", "scale1.weight", "scale2.weight")):
            nn.init.normal_(tensor, std=0.1)  # a block is quadratic in its input: more would grow beyond all numbers
        elif tensor.is_floating_point():
            nn.init.normal_(tensor, std=tensor[0].numel() ** -0.5 if tensor.ndim > 1 else 0.5)
    return network.double()


# --- sizes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("plugin", "thousand", "hundred"),
    [
        (MogaNetXTiny, 2_956_066, 2_956_066 - 900 * 193),
        (MogaNetTiny, 5_197_332, 4_966_032),
        (MogaNetSmall, 25_335_675, 25_335_675 - 900 * 513),
        (CifarMogaNetTiny, 5_197_332, 4_966_032),
    ],
)
def test_parameters(plugin, thousand, hundred):
    with torch.device("meta"):
        network = plugin().build_backbone(task(1000))
        assert count(network) == thousand
        network.reset_classifier(100)
        assert count(network) == hundred


@pytest.mark.slow
def test_multiply_adds():
    with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as counter:
        MogaNetTiny().build_backbone(task()).eval()(torch.zeros(1, 3, 224, 224))
    assert counter.get_total_flops() / 2e9 == pytest.approx(1.08, abs=0.005)


# --- the forward, written anew from the formulas ---------------------------------------------------------------------


def conv(w, name, x, stride=1, pad=0, dilation=1, groups=1):
    return F.conv2d(x, w[f"{name}.weight"], w[f"{name}.bias"], stride, pad, dilation, groups)


def norm(w, name, x, train):
    if train:
        mean, var = x.mean((0, 2, 3)), x.var((0, 2, 3), unbiased=False)
    else:
        mean, var = w[f"{name}.running_mean"], w[f"{name}.running_var"]
    scale = w[f"{name}.weight"] / (var + 1e-5).sqrt()
    return (x - mean[:, None, None]) * scale[:, None, None] + w[f"{name}.bias"][:, None, None]


def silu(x):
    return x / (1 + torch.exp(-x))


def gelu(x):
    return 0.5 * x * (1 + torch.erf(x / math.sqrt(2)))


def plain_aggregation(w, at, u, act):
    p = conv(w, f"{at}.proj1", u)
    p = silu(p + w[f"{at}.scale.weight"] * (p - p.mean((2, 3), keepdim=True)))
    g = conv(w, f"{at}.gate", p)
    channels = p.shape[1]
    c0, c1 = channels // 8, 3 * channels // 8
    h = conv(w, f"{at}.value.near", p, pad=2, groups=channels)
    h1 = conv(w, f"{at}.value.middle", h[:, c0 : c0 + c1], pad=4, dilation=2, groups=c1)
    h2 = conv(w, f"{at}.value.far", h[:, -channels // 2 :], pad=9, dilation=3, groups=channels // 2)
    v = conv(w, f"{at}.value.merge", torch.cat((h[:, :c0], h1, h2), 1))
    return conv(w, f"{at}.proj2", act(g) * act(v)) + u


def plain_mlp(w, at, u):
    h = conv(w, f"{at}.fc1", u)
    h = gelu(conv(w, f"{at}.dw", h, pad=1, groups=h.shape[1]))
    h = h + w[f"{at}.scale.weight"] * (h - gelu(conv(w, f"{at}.common", h)))
    return conv(w, f"{at}.fc2", h)


def plain_forward(w, x, depths, *, train=False, stem_stride=2, act=silu):
    """Logits and the output of every stage."""
    stages = []
    for stage, depth in enumerate(depths):
        name = f"stages.{stage}"
        if stage == 0:
            x = gelu(norm(w, f"{name}.embed.1", conv(w, f"{name}.embed.0", x, stem_stride, 1), train))
            x = norm(w, f"{name}.embed.4", conv(w, f"{name}.embed.3", x, stem_stride, 1), train)
        else:
            x = norm(w, f"{name}.embed.1", conv(w, f"{name}.embed.0", x, 2, 1), train)
        for block in range(depth):
            at = f"{name}.blocks.{block}"
            mixed = plain_aggregation(w, f"{at}.aggregation", norm(w, f"{at}.norm1", x, train), act)
            x = x + w[f"{at}.scale1.weight"] * mixed
            x = x + w[f"{at}.scale2.weight"] * plain_mlp(w, f"{at}.mlp", norm(w, f"{at}.norm2", x, train))
        x = norm(w, f"{name}.norm", x, train)
        stages.append(x)
    return x.mean((2, 3)) @ w["head.weight"].T + w["head.bias"], stages


def agree(network, images, depths, **options):
    found = {}
    for number, stage in enumerate(network.stages):
        stage.register_forward_hook(lambda _m, _i, output, number=number: found.__setitem__(number, output))
    state = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    with torch.no_grad():
        logits, stages = plain_forward(state, images, depths, **options)
        torch.testing.assert_close(network(images), logits)
    assert logits.std() > 0.01
    for number, expected in enumerate(stages):
        torch.testing.assert_close(found[number], expected)


@pytest.mark.parametrize("size", [(224, 224), (40, 72)])
def test_the_forward_is_that_of_the_formulas(size):
    network = shaken(MogaNet(*TINY, num_classes=7)).eval()
    agree(network, torch.randn(1, 3, *size, dtype=torch.float64), TINY[1])


def test_train_mode_norms_by_the_batch():
    agree(shaken(thin()), torch.randn(3, 3, 64, 64, dtype=torch.float64), THIN[1], train=True)


def test_the_stem_for_small_images():
    network = shaken(thin(stem_stride=1)).eval()
    agree(network, torch.randn(2, 3, 32, 32, dtype=torch.float64), THIN[1], stem_stride=1)


def test_the_backbone_of_small_images_has_that_stem():
    with torch.device("meta"):
        small, usual = (plugin().build_backbone(task(10)) for plugin in (CifarMogaNetTiny, MogaNetTiny))
    strides = [[m.stride[0] for m in network.stages[0].embed if isinstance(m, nn.Conv2d)] for network in (small, usual)]
    assert strides == [[1, 1], [2, 2]]
    assert small.state_dict().keys() == usual.state_dict().keys()


def test_silu_twice_on_both_factors_of_the_gate():
    network = shaken(thin(double_act=True)).eval()
    images = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    agree(network, images, THIN[1], act=lambda x: silu(silu(x)))
    logits, _ = plain_forward(network.state_dict(), images, THIN[1])
    assert not torch.allclose(network(images), logits, rtol=1e-3)


# --- the gate in float32 ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "twice", "whole"),
    [
        ({}, False, False),
        ({"gate_fp32": True}, True, True),
        ({"double_gate_act": True}, True, False),
        ({"gate_fp32": True, "double_gate_act": False}, False, True),
    ],
)
def test_what_the_options_mean(options, twice, whole):
    with torch.device("meta"):
        network = MogaNetXTiny(**options).build_backbone(task())
    gates = [module for module in network.modules() if isinstance(module, GatedAggregation)]
    assert len(gates) == 18
    assert {(gate.double_act, gate.gate_fp32) for gate in gates} == {(twice, whole)}


@pytest.mark.parametrize("gate_fp32", [False, True])
def test_the_gate_under_mixed_precision(gate_fp32):
    torch.manual_seed(0)
    gate = GatedAggregation(8, gate_fp32=gate_fp32, double_act=False)
    given, before = [], []
    gate.proj2.register_forward_hook(lambda _m, arguments, output: given.extend((arguments[0], output)))
    for module in (gate.gate, gate.value):
        module.register_forward_hook(lambda _m, _i, output: before.append(output))
    with torch.autocast("cpu", torch.bfloat16):
        gate(torch.randn(2, 8, 8, 8))
        assert torch.is_autocast_enabled("cpu")
    assert {output.dtype for output in before} == {torch.bfloat16}
    assert {one.dtype for one in given} == ({torch.float32} if gate_fp32 else {torch.bfloat16})
    if gate_fp32:
        factors = [F.silu(output.float()) for output in before]
        torch.testing.assert_close(given[0], factors[0] * factors[1])
        torch.testing.assert_close(given[1], F.conv2d(given[0], gate.proj2.weight, gate.proj2.bias))


# --- what the methods need -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stem_stride", "size", "sides", "reductions"),
    [(2, 224, (56, 28, 14, 7), (4, 8, 16, 32)), (1, 32, (32, 16, 8, 4), (1, 2, 4, 8))],
)
def test_stages_for_mixing(stem_stride, size, sides, reductions):
    its_task = task(10, size=(size, size))
    network = MogaNet(TINY[0], (1, 1, 1, 1), num_classes=10, stem_stride=stem_stride)
    found = [stage_shape(network, number, its_task) for number in (1, 2, 3, 4)]
    assert found == [(width, side, side) for width, side in zip(TINY[0], sides, strict=True)]
    assert [(entry["num_chs"], entry["reduction"]) for entry in network.feature_info] == list(
        zip(TINY[0], reductions, strict=True)
    )
    assert capabilities(network) == {"stages", "features", "head", "tokens", "class_activation"}


def test_methods_train_it():
    mix = [{"name": "cutmix"}, {"name": "manifoldmix", "layers": [1, 3]}, {"name": "saliencymix"}]
    step = mixcore.create_step(thin(), mix=mix, num_classes=5, iterations=9, image_size=(64, 64))
    for iteration in range(6):
        loss, _ = step(torch.randn(4, 3, 64, 64), torch.randint(5, (4,)), iteration=iteration)
        loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in step.model.parameters())


def test_the_language_of_timm():
    network, images = thin().eval(), torch.randn(2, 3, 32, 64)
    features = network.forward_features(images)
    assert features.shape == (2, 32, 1, 2)
    pooled = network.forward_head(features, pre_logits=True)
    torch.testing.assert_close(pooled, features.mean((2, 3)))
    assert network.num_features == network.head_hidden_size == 32
    torch.testing.assert_close(network(images), network.get_classifier()(pooled))
    network.reset_classifier(7)
    assert (network(images).shape, network.num_classes) == ((2, 7), 7)
    network.reset_classifier(0)
    torch.testing.assert_close(network(images), pooled)
    with pytest.raises(ValueError, match="pools by average only"):
        network.reset_classifier(7, "max")


def test_every_learnt_scale_is_spared_from_weight_decay():
    network = thin()
    spared = network.no_weight_decay()
    assert {name for name, parameter in network.named_parameters() if parameter.shape[:1] == (1,)} - spared == {
        f"stages.{stage}.blocks.{block}.mlp.common.{kind}"
        for stage, depth in enumerate(THIN[1])
        for block in range(depth)
        for kind in ("weight", "bias")
    }
    assert len(spared) == 4 * sum(THIN[1])
    for name in spared:
        scale = network.get_parameter(name)
        assert scale.shape == (1, scale.numel(), 1, 1)
        assert (scale == 1e-5).all()


def test_drop_path_is_linear_over_the_blocks():
    with torch.device("meta"):
        network = MogaNetTiny(drop_path_rate=0.19).build_backbone(task())
    blocks = [module for module in network.modules() if isinstance(module, Block)]
    rates = [getattr(block.drop_path, "drop_prob", 0.0) for block in blocks]
    assert rates == pytest.approx([0.01 * number for number in range(20)])


def test_checkpointing_changes_no_gradient():
    network, images = thin(), torch.randn(2, 3, 64, 64)
    gradients = []
    for enable in (False, True):
        network.set_grad_checkpointing(enable)
        network.zero_grad()
        network(images).square().sum().backward()
        gradients.append([parameter.grad for parameter in network.parameters()])
    torch.testing.assert_close(gradients[0], gradients[1])


# --- how it starts ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("init", ["default", "reference"])
def test_the_published_start(init):
    network = MogaNetTiny(init=init).build_backbone(task())
    expected = {
        "stages.1.embed.0": math.sqrt(2 / (9 * 64)),
        "stages.3.blocks.0.mlp.fc1": math.sqrt(2 / 1024),
        "stages.2.blocks.3.aggregation.value.near": math.sqrt(2 / 25),  # depthwise: one output per group
        "stages.2.blocks.3.aggregation.value.far": math.sqrt(2 / 49),
        "head": 0.01,
    }
    for name, std in expected.items():
        assert network.get_parameter(f"{name}.weight").std().item() == pytest.approx(std, rel=0.05), name
        assert not network.get_parameter(f"{name}.bias").any(), name
    assert (network.get_parameter("stages.0.embed.1.weight") == 1).all()


def test_the_start_of_pytorch():
    network = MogaNetTiny(init="torch").build_backbone(task())
    for name in ("stages.3.blocks.0.mlp.fc1", "head"):
        weight = network.get_parameter(f"{name}.weight")
        assert weight.std().item() == pytest.approx(1 / math.sqrt(3 * 256), rel=0.05), name


def test_weights_from_a_file(tmp_path):
    state = MogaNetXTiny().build_backbone(task(7)).state_dict()
    torch.save(state, tmp_path / "w.pt")
    loaded = MogaNetXTiny(weights=str(tmp_path / "w.pt")).build_backbone(task(5)).state_dict()
    assert all(torch.equal(value, loaded[name]) for name, value in state.items() if not name.startswith("head."))
    assert loaded["head.weight"].shape[0] == 5


@pytest.mark.parametrize("bad", [{"drop_path_rate": 1.0}, {"drop_path_rate": -0.1}, {"init": "zeros"}])
def test_values_out_of_range(bad):
    with pytest.raises(ValueError, match="must be"):
        MogaNetTiny(**bad)


# --- the contract ----------------------------------------------------------------------------------------------------


@attrs.define(eq=False, kw_only=True)
class Thin(MogaNetTiny):
    """Narrow, and a block or two a stage."""

    widths: ClassVar[tuple[int, ...]] = THIN[0]
    depths: ClassVar[tuple[int, ...]] = THIN[1]


class TestContract(PluginContract):
    role = "backbone"
    plugin = Thin
    left_out = ("two_processes",)


@pytest.mark.slow
class TestContractOfTheWhole(PluginContract):
    role = "backbone"
    plugin = "moganet_tiny"


def test_readme():
    names = run_example(Path(__file__).parents[1] / "README.md")
    assert names["loss"].isfinite()
