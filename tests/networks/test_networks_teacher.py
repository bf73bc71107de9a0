"""Frozen teachers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import nn

from mixcore.errors import ConfigError
from mixcore.networks.named import backbones_by
from mixcore.networks.teacher import load_teacher
from mixcore.testing import TinyConvNet
from mixcore.types import Task

TASK = Task(num_classes=5, in_channels=3, image_size=(32, 32), mean=(0.0,) * 3, std=(1.0,) * 3)


@pytest.fixture
def trained() -> nn.Module:
    torch.manual_seed(3)
    return timm.create_model("resnet10t", num_classes=5)


def wrappings(state: dict[str, torch.Tensor]) -> dict[str, object]:
    return {
        "bare": state,
        "state_dict": {"state_dict": state, "epoch": 3},
        "model": {"model": state},
        "parallel": {f"module.{name}": value for name, value in state.items()},
        "mixcore": {
            "format": 1,
            "step": {
                **{f"model.{name}": value for name, value in state.items()},
                "parts.mix.block.weight": torch.zeros(1),
            },
        },
    }


@pytest.mark.parametrize("kind", ["bare", "state_dict", "model", "parallel", "mixcore"])
def test_a_teacher_from_a_file_is_frozen(tmp_path: Path, trained: nn.Module, kind: str) -> None:
    path = tmp_path / "teacher.pt"
    torch.save(wrappings(trained.state_dict())[kind], path)
    part = load_teacher("resnet10t", task=TASK, weights=str(path), stages=("layer3",))
    assert (part.optimizer, part.eval, part.save, part.stages) == (None, True, False, ("layer3",))
    assert not any(parameter.requires_grad for parameter in part.module.parameters())
    assert not any(module.training for module in part.module.modules())
    images = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(part.module(images), trained.eval()(images), rtol=0, atol=0)


def test_a_teacher_from_safetensors(tmp_path: Path, trained: nn.Module) -> None:
    from safetensors.torch import save_file

    save_file(trained.state_dict(), tmp_path / "teacher.safetensors")
    part = load_teacher("resnet10t", task=TASK, weights=str(tmp_path / "teacher.safetensors"))
    torch.testing.assert_close(part.module.fc.weight, trained.fc.weight, rtol=0, atol=0)


@pytest.mark.parametrize("wrapped", [False, True])
def test_weights_of_other_classes_keep_them_when_asked(tmp_path: Path, wrapped: bool) -> None:
    torch.manual_seed(3)
    other = timm.create_model("resnet10t", num_classes=7)
    path = str(tmp_path / "teacher.pt")
    torch.save(other.state_dict(), path)
    with pytest.raises(ConfigError, match=r'are for 7 classes, the task has 5; .*classes = "own"'):
        load_teacher("resnet10t", task=TASK, weights=path)
    part = load_teacher("resnet10t", task=TASK, weights=path, classes="own")
    images = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(part.module(images), other.eval()(images), rtol=0, atol=0)
    with pytest.raises(ConfigError, match="the teacher ResNet is for 7 classes, the task has 5"):
        load_teacher(other, task=TASK)
    assert load_teacher(other, task=TASK, classes="own", attention=wrapped).attention is wrapped


def test_a_teacher_may_be_any_backbone_that_the_building_core_knows(tmp_path: Path) -> None:
    path = str(tmp_path / "teacher.pt")
    torch.manual_seed(0)
    torch.save(TinyConvNet(7).state_dict(), path)
    asked = []

    def build(name: str, task: Task, options: Mapping[str, Any]) -> nn.Module | None:
        asked.append((name, task.num_classes, dict(options)))
        return TinyConvNet(task.num_classes) if name == "tiny" else None

    with backbones_by(build):
        part = load_teacher("tiny", task=TASK, weights=path, classes="own", stages=(-1,), width=8)
        assert isinstance(part.module, TinyConvNet)
        assert part.module.num_classes == 7
        assert asked[-1] == ("tiny", 7, {"width": 8})
        with pytest.raises(ConfigError, match="weights of teacher 'tiny' are nowhere published"):
            load_teacher("tiny", task=TASK)
    with pytest.raises(ConfigError, match="'tiny' is no installed backbone and no model of timm"):
        load_teacher("tiny", task=TASK, weights=path)


def test_a_network_is_taken_as_it_is(trained: nn.Module) -> None:
    part = load_teacher(trained, task=TASK)
    assert part.module is trained
    assert not trained.fc.weight.requires_grad


def test_what_cannot_be_a_teacher_is_refused(tmp_path: Path, trained: nn.Module) -> None:
    path = tmp_path / "teacher.pt"
    with pytest.raises(ConfigError, match="no model of timm"):
        load_teacher("resnet10z", task=TASK)
    with pytest.raises(ConfigError, match="for 1000 classes, the task has 5"):
        load_teacher("resnet10t", task=TASK)
    with pytest.raises(ConfigError, match="no file"):
        load_teacher("resnet10t", task=TASK, weights=str(path))
    with pytest.raises(ConfigError, match="cannot build teacher"):
        load_teacher("resnet10t", task=TASK, weights=str(path), no_such_option=1)
    with pytest.raises(ConfigError, match=r"names checkpoint_path.*as the teacher's weights"):
        load_teacher("resnet10t", task=TASK, weights=str(path), checkpoint_path="elsewhere.pth")
    path.write_text("no tensors")
    with pytest.raises(ConfigError, match=r"can be read: it is no torch file$"):
        load_teacher("resnet10t", task=TASK, weights=str(path))
    torch.save(torch.zeros(3), path)
    with pytest.raises(ConfigError, match="holds a Tensor"):
        load_teacher("resnet10t", task=TASK, weights=str(path))
    torch.save(trained.state_dict(), path)
    with pytest.raises(ConfigError, match=r"does not fit a ResNet.*name the architecture"):
        load_teacher("resnet14t", task=TASK, weights=str(path))
