"""The builtin saliencies: the contract, and their formulas."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch
from torch import Tensor
from torch.nn import functional as F

import mixcore
from mixcore.api import Batch, fine_grained
from mixcore.errors import ConfigError
from mixcore.step.step import TrainingStep
from mixcore.testing import SaliencyContract, TinyConvNet
from mixcore.testing.fakes import Shown


class TestInputGradient(SaliencyContract):
    plugin = "input_grad"


class TestFeature(SaliencyContract):
    plugin = "feature"


class TestClassActivation(SaliencyContract):
    plugin = "class_activation"


class TestAttention(SaliencyContract):
    plugin = "attention"


class TestSpectralResidual(SaliencyContract):
    plugin = "spectral_residual"


class TestFineGrained(SaliencyContract):
    plugin = "fine_grained"


class TestUniform(SaliencyContract):
    plugin = "uniform"


def teacher(classes: int = 5) -> TinyConvNet:
    """The same at every call."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        return TinyConvNet(classes)


IN_PYTHON = ("options_round_trip", "state_round_trip")
"""Checks that write the options as TOML, which holds no network."""


class TestTeacherFeature(SaliencyContract):
    plugin = "teacher_feature"
    options = {"teacher": teacher(9), "size": 20}
    left_out = IN_PYTHON


class TestTeacherClassActivation(SaliencyContract):
    plugin = "teacher_class_activation"
    options = {"teacher": teacher(), "size": 16}
    left_out = IN_PYTHON


class TestTeacherClassProbability(SaliencyContract):
    plugin = "teacher_class_probability"
    options = {"teacher": teacher()}
    left_out = IN_PYTHON


def step_of(saliency: Any) -> TrainingStep:
    torch.manual_seed(0)
    return mixcore.create_step(
        TinyConvNet(5), mix=Shown(saliency=saliency), num_classes=5, iterations=10, image_size=(32, 32)
    )


def map_of(saliency: Any, images: Tensor, labels: Tensor) -> Tensor:
    return step_of(saliency).mix_batch(Batch(images=images, labels=labels), mixer=0)[0].notes["saliency"]


@pytest.fixture
def images() -> Tensor:
    return torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(3))


@pytest.fixture
def labels() -> Tensor:
    return torch.tensor([0, 1, 2, 4])


def test_a_teacher_shows_its_features(images: Tensor, labels: Tensor) -> None:
    of = teacher(9).eval()
    found = map_of({"name": "teacher_feature", "teacher": teacher(9), "size": 48}, images, labels)
    shown = F.interpolate(images, size=(48, 48), mode="bilinear", align_corners=False)
    torch.testing.assert_close(found, of.forward_features(shown).mean(1).detach())
    assert found.shape == (4, 12, 12)


def test_a_teacher_shows_where_its_class_is_active(images: Tensor, labels: Tensor) -> None:
    of = teacher().eval()
    found = map_of({"name": "teacher_class_activation", "teacher": teacher()}, images, labels)
    features = of.forward_features(images)
    expected = torch.einsum("nchw,nc->nhw", features, of.fc.weight[labels]).clamp(min=0)
    torch.testing.assert_close(found, expected.detach(), rtol=1e-4, atol=1e-5)


def test_a_teacher_tells_the_class_at_every_position(images: Tensor, labels: Tensor) -> None:
    of = teacher().eval()
    held = {"name": "teacher_class_probability", "teacher": teacher()}
    features = of.forward_features(images).permute(0, 2, 3, 1)
    probabilities = of.fc(features).softmax(3).detach()
    expected = torch.stack([p[..., label] for p, label in zip(probabilities, labels.tolist(), strict=True)])
    torch.testing.assert_close(map_of(held, images, labels), expected)
    soft = torch.rand(4, 5, generator=torch.Generator().manual_seed(1))
    found = map_of(held, images, soft)
    torch.testing.assert_close(found, torch.einsum("nhwk,nk->nhw", probabilities, soft))


@pytest.mark.parametrize("name", ["teacher_class_activation", "teacher_class_probability"])
def test_logits_of_other_classes_are_not_read(name: str) -> None:
    with pytest.raises(ConfigError, match="for 9 classes, the task has 5"):
        step_of({"name": name, "teacher": teacher(9)})
    with pytest.raises(ConfigError, match=r"this teacher has 9 classes, the\s+task 5; .*teacher_feature"):
        step_of({"name": name, "teacher": teacher(9), "classes": "own"})


def test_class_activation_maps_need_a_head_that_pools() -> None:
    of = timm.create_model("vit_tiny_patch16_224", num_classes=5, img_size=32, depth=1)
    with pytest.raises(ConfigError, match="has no class activation maps; name a teacher that averages"):
        step_of({"name": "teacher_class_activation", "teacher": of})


def test_a_teacher_by_the_name_of_a_backbone_plugin(tmp_path: Any, images: Tensor, labels: Tensor) -> None:
    from mixcore_plugins_builtin.backbones.cifar import CifarResNet18

    task = mixcore.api.Task(num_classes=7, in_channels=3, image_size=(32, 32), mean=(0.0,) * 3, std=(1.0,) * 3)
    torch.manual_seed(2)
    network: Any = CifarResNet18().build_backbone(task).eval()
    torch.save(network.state_dict(), tmp_path / "teacher.pt")
    table = {"name": "teacher_feature", "teacher": "cifar_resnet18", "weights": str(tmp_path / "teacher.pt")}
    torch.testing.assert_close(
        map_of(table, images, labels), network.forward_features(images).mean(1).detach(), rtol=1e-4, atol=1e-5
    )
    with pytest.raises(ConfigError, match="for 7 classes, the task has 5"):
        step_of({**table, "classes": "task"})
    with pytest.raises(ConfigError, match="has role mix, expected a plugin with role backbone"):
        step_of({**table, "teacher": "cutmix"})


def test_the_names_of_the_probe_and_the_plugins_are_one_formula(images: Tensor, labels: Tensor) -> None:
    assert torch.equal(map_of("fine_grained", images, labels), fine_grained(images))
    assert (map_of("uniform", images, labels) == 1).all()
