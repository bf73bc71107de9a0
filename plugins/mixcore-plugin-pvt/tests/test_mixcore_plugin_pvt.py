"""PVT: sizes, an independent plain forward, stages, attention, and what it refuses."""

from __future__ import annotations

import math
from pathlib import Path
from typing import ClassVar

import attrs
import pytest
import torch
from mixcore_plugin_pvt import PVTSmall, PVTTiny, PyramidVisionTransformer
from mixcore_plugin_pvt.stage import resized_positions
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

import mixcore
from mixcore.api import ConfigError, Task, capabilities, stage_shape
from mixcore.networks.network import Network
from mixcore.testing import PluginContract, run_example


def task(classes=1000, size=(224, 224), channels=3):
    return Task(
        num_classes=classes, in_channels=channels, image_size=size, mean=(0.5,) * channels, std=(0.5,) * channels
    )


def count(network):
    return sum(parameter.numel() for parameter in network.parameters())


def thin(**options):
    """One block a stage: enough for what does not depend on their number."""
    return PyramidVisionTransformer((1, 1, 1, 1), num_classes=5, **options)


def shaken(network):
    """No parameter at a value under which a term of the formulas would vanish."""
    torch.manual_seed(0)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.05 if parameter.ndim > 1 else 0.3)
    return network.double().eval()


# --- sizes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("plugin", "thousand", "hundred"),
    [(PVTTiny, 13_229_288, 12_767_588), (PVTSmall, 24_485_864, 24_485_864 - 900 * 513)],
)
def test_parameters(plugin, thousand, hundred):
    with torch.device("meta"):
        network = plugin().build_backbone(task(1000))
        assert count(network) == thousand
        network.reset_classifier(100)
        assert count(network) == hundred


def test_multiply_adds():
    with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as counter:
        PVTTiny().build_backbone(task()).eval()(torch.zeros(1, 3, 224, 224))
    assert counter.get_total_flops() / 2e9 == pytest.approx(1.93, abs=0.005)


# --- the forward, written anew from the formulas --------------------------------------------------------------------


def linear(w, name, x):
    return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]


def norm(w, name, x, eps):
    centred = x - x.mean(-1, keepdim=True)
    scaled = centred / (centred.square().mean(-1, keepdim=True) + eps).sqrt()
    return scaled * w[f"{name}.weight"] + w[f"{name}.bias"]


def plain_attention(w, name, x, heads, reduction, grid):
    count, _, width = x.shape
    source = x
    if reduction > 1:
        image = x.transpose(1, 2).reshape(count, width, *grid)
        small = F.conv2d(image, w[f"{name}.reduce.weight"], w[f"{name}.reduce.bias"], stride=reduction)
        source = norm(w, f"{name}.norm", small.flatten(2).transpose(1, 2), 1e-5)
    queries, both = linear(w, f"{name}.q", x), linear(w, f"{name}.kv", source)
    keys, values = both[..., :width], both[..., width:]
    size, found, matrices = width // heads, [], []
    for head in range(heads):
        own = slice(head * size, (head + 1) * size)
        matrix = (queries[..., own] @ keys[..., own].transpose(1, 2) * size**-0.5).softmax(-1)
        matrices.append(matrix)
        found.append(matrix @ values[..., own])
    return linear(w, f"{name}.proj", torch.cat(found, -1)), torch.stack(matrices).mean(0)


def plain_positions(positions, old, new, prefix):
    grid = positions[:, prefix:].transpose(1, 2).reshape(1, -1, *old)
    resized = F.interpolate(grid, new, mode="bicubic", align_corners=False)
    return torch.cat((positions[:, :prefix], resized.flatten(2).transpose(1, 2)), 1)


def plain_forward(w, x, depths, built_for=(224, 224)):
    """Logits, the output of every stage, and the matrices of the last one, averaged over heads."""
    stages, matrices = [], []
    rows, columns = built_for
    for stage, (patch, heads, reduction, depth) in enumerate(
        zip((4, 2, 2, 2), (1, 2, 5, 8), (8, 4, 2, 1), depths, strict=True)
    ):
        name, prefix = f"stages.{stage}", int(stage == 3)
        rows, columns = rows // patch, columns // patch
        x = F.conv2d(x, w[f"{name}.proj.weight"], w[f"{name}.proj.bias"], stride=patch)
        count, _, *grid = x.shape
        x = norm(w, f"{name}.norm", x.flatten(2).transpose(1, 2), 1e-6)
        if prefix:
            x = torch.cat((w[f"{name}.cls_token"].expand(count, 1, -1), x), 1)
        positions = w[f"{name}.pos_embed"]
        x = x + (
            positions if (rows, columns) == tuple(grid) else plain_positions(positions, (rows, columns), grid, prefix)
        )
        for block in range(depth):
            at = f"{name}.blocks.{block}"
            attended, matrix = plain_attention(w, f"{at}.attn", norm(w, f"{at}.norm1", x, 1e-6), heads, reduction, grid)
            x = x + attended
            hidden = linear(w, f"{at}.mlp.fc1", norm(w, f"{at}.norm2", x, 1e-6))
            hidden = 0.5 * hidden * (1 + torch.erf(hidden / math.sqrt(2)))
            x = x + linear(w, f"{at}.mlp.fc2", hidden)
            matrices += [matrix] if prefix else []
        if not prefix:
            x = x.transpose(1, 2).reshape(count, -1, *grid)
        stages.append(x)
    return linear(w, "head", norm(w, "norm", x, 1e-6)[:, 0]), stages, matrices


@pytest.mark.parametrize("size", [(224, 224), (96, 128)])
def test_the_forward_is_that_of_the_formulas(size):
    network = shaken(PyramidVisionTransformer(num_classes=7))
    images = torch.randn(2, 3, *size, dtype=torch.float64)
    found = {}
    for number, stage in enumerate(network.stages):
        stage.register_forward_hook(lambda _m, _i, output, number=number: found.__setitem__(number, output))
    with torch.no_grad():
        logits, stages, _ = plain_forward(network.state_dict(), images, (2, 2, 2, 2))
        torch.testing.assert_close(network(images), logits)
    assert logits.std() > 0.01
    for number, expected in enumerate(stages):
        torch.testing.assert_close(found[number], expected)


def test_it_is_built_for_the_size_of_the_task():
    network = PVTTiny().build_backbone(task(7, size=(64, 96), channels=1))
    assert [tuple(stage.grid) for stage in network.stages] == [(16, 24), (8, 12), (4, 6), (2, 3)]
    network = shaken(network)
    images = torch.randn(2, 1, 64, 96, dtype=torch.float64)
    with torch.no_grad():
        logits, _, _ = plain_forward(network.state_dict(), images, (2, 2, 2, 2), built_for=(64, 96))
        torch.testing.assert_close(network(images), logits)


def test_positions_of_other_grids():
    positions = torch.randn(1, 1 + 7 * 7, 4)
    assert resized_positions(positions, (7, 7), (7, 7)) is positions
    other = resized_positions(positions, (7, 7), (5, 9))
    assert other.shape == (1, 46, 4)
    assert torch.equal(other[:, 0], positions[:, 0]), "the class token's own stays"
    line = torch.zeros(8, 8)
    line[4] = 1
    grown = resized_positions(line.reshape(1, 64, 1), (8, 8), (16, 16)).reshape(16, 16)
    half = [-0.03515625, -0.10546875, 0.26171875, 0.87890625]  # the cubic kernel (a = -3/4) at 1.75, 1.25, 0.75, 0.25
    expected = torch.tensor([*half, *half[::-1]])[:, None].expand(8, 16)
    torch.testing.assert_close(grown[5:13], expected)
    assert not grown[:5].any()


# --- what the methods need -------------------------------------------------------------------------------------------


def test_stages_for_mixing():
    network = thin()
    named = [entry["module"] for entry in network.feature_info]
    assert [stage_shape(network, name, task()) for name in named] == [
        (64, 56, 56),
        (128, 28, 28),
        (320, 14, 14),
        (512, 7, 7),
    ]
    assert stage_shape(network, 3, task()) == (320, 14, 14)
    assert stage_shape(network, "features", task()) == (512, 7, 7)
    assert [(entry["num_chs"], entry["reduction"]) for entry in network.feature_info] == [
        (64, 4),
        (128, 8),
        (320, 16),
        (512, 32),
    ]
    assert capabilities(network) == {"stages", "attention", "features", "head", "tokens"}


def test_attention_of_the_last_stage_is_read():
    network = shaken(PyramidVisionTransformer((1, 1, 1, 2), num_classes=5))
    images = torch.randn(2, 3, 96, 128, dtype=torch.float64)
    with torch.no_grad():
        caught = Network(network, attention=True).forward(images, attention=True).attention
        _, _, matrices = plain_forward(network.state_dict(), images, (1, 1, 1, 2))
    assert len(caught) == len(matrices) == 2
    for block, matrix in zip(caught, matrices, strict=True):
        assert matrix.shape == (2, 13, 13)
        torch.testing.assert_close(block.row(), matrix[:, 0, 1:].float())
        torch.testing.assert_close(block.received(), matrix[:, 1:, 1:].mean(1).float())
        weights = torch.rand(2, 13)
        torch.testing.assert_close(block.apply(weights), torch.einsum("mij,mj->mi", matrix.float(), weights))


@pytest.mark.parametrize("labels", ["weights", "transmix"])
def test_methods_train_it(labels):
    mix = [{"name": "cutmix", "probability": 0.5}, {"name": "manifoldmix", "layers": [1, 3], "probability": 0.5}]
    step = mixcore.create_step(
        thin(img_size=(64, 64)),
        mix="cutmix" if labels == "transmix" else mix,
        labels=labels,
        num_classes=5,
        iterations=4,
        image_size=(64, 64),
    )
    for iteration in range(2):
        loss, _ = step(torch.randn(4, 3, 64, 64), torch.randint(5, (4,)), iteration=iteration)
        loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in step.model.parameters())


def test_the_language_of_timm():
    network, images = thin(img_size=(32, 32)).eval(), torch.randn(2, 3, 32, 32)
    features = network.forward_features(images)
    assert features.shape == (2, 2, 512)
    pooled = network.forward_head(features, pre_logits=True)
    assert torch.equal(pooled, features[:, 0])
    assert network.num_features == network.head_hidden_size == 512
    torch.testing.assert_close(network(images), network.get_classifier()(pooled))
    network.reset_classifier(7)
    assert (network(images).shape, network.num_classes) == ((2, 7), 7)
    network.reset_classifier(0)
    torch.testing.assert_close(network(images), pooled)
    with pytest.raises(ValueError, match="reads its class token only"):
        network.reset_classifier(7, "avg")


def test_what_is_spared_from_weight_decay():
    assert thin(img_size=(32, 32)).no_weight_decay() == {
        *(f"stages.{number}.pos_embed" for number in range(4)),
        "stages.3.cls_token",
    }


def test_drop_path_is_linear_over_the_blocks():
    with torch.device("meta"):
        network = PVTTiny(drop_path_rate=0.14).build_backbone(task())
    rates = [getattr(block.drop_path, "drop_prob", 0.0) for stage in network.stages for block in stage.blocks]
    assert rates == pytest.approx([0.02 * number for number in range(8)])


def test_checkpointing_changes_no_gradient():
    network, images = thin(img_size=(32, 32)), torch.randn(2, 3, 32, 32)
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
    network = PVTTiny(init=init).build_backbone(task())
    for name in ("stages.0.blocks.0.attn.kv", "stages.2.blocks.1.mlp.fc1", "head"):
        assert network.get_parameter(f"{name}.weight").std().item() == pytest.approx(0.02, rel=0.05), name
        assert not network.get_parameter(f"{name}.bias").any(), name
    assert network.get_parameter("stages.1.pos_embed").std().item() == pytest.approx(0.02, rel=0.05)
    assert network.get_parameter("stages.3.cls_token").std().item() == pytest.approx(0.02, rel=0.15)
    for name in ("stages.1.proj", "stages.0.blocks.0.attn.reduce"):  # PyTorch's own: uniform in +-1 / sqrt(fan_in)
        weight = network.get_parameter(f"{name}.weight")
        assert weight.std().item() == pytest.approx(1 / math.sqrt(3 * weight[0].numel()), rel=0.05), name


def test_the_start_of_pytorch():
    network = PVTTiny(init="torch").build_backbone(task())
    weight = network.get_parameter("stages.2.blocks.1.mlp.fc1.weight")
    assert weight.std().item() == pytest.approx(1 / math.sqrt(3 * 320), rel=0.05)
    assert not network.get_parameter("stages.1.pos_embed").any()
    assert not network.get_parameter("stages.3.cls_token").any()


def test_weights_from_a_file(tmp_path):
    state = PVTTiny().build_backbone(task(7, size=(32, 32))).state_dict()
    torch.save(state, tmp_path / "w.pt")
    loaded = PVTTiny(weights=str(tmp_path / "w.pt")).build_backbone(task(5, size=(32, 32))).state_dict()
    assert all(torch.equal(value, loaded[name]) for name, value in state.items() if not name.startswith("head."))
    assert loaded["head.weight"].shape[0] == 5


# --- what is refused -------------------------------------------------------------------------------------------------


def test_images_that_are_too_small():
    with pytest.raises(ConfigError, match=r"PVT takes images of 32x32 pixels or more.* are 28x64"):
        PVTTiny().build_backbone(task(size=(28, 64)))
    assert PVTTiny().build_backbone(task(5, size=(32, 47)))(torch.zeros(1, 3, 32, 47)).shape == (1, 5)


@pytest.mark.parametrize("bad", [{"drop_path_rate": 1.0}, {"drop_path_rate": -0.1}, {"init": "zeros"}])
def test_values_out_of_range(bad):
    with pytest.raises(ValueError, match="must be"):
        PVTTiny(**bad)


# --- the contract ----------------------------------------------------------------------------------------------------


@attrs.define(eq=False, kw_only=True)
class Thin(PVTTiny):
    """One block a stage."""

    depths: ClassVar[tuple[int, ...]] = (1, 1, 1, 1)


class TestContract(PluginContract):
    role = "backbone"
    plugin = Thin
    left_out = ("two_processes",)


@pytest.mark.slow
class TestContractOfTheWhole(PluginContract):
    role = "backbone"
    plugin = "pvt_tiny"


def test_readme():
    names = run_example(Path(__file__).parents[1] / "README.md")
    assert names["loss"].isfinite()
