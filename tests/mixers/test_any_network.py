"""Both doors of a foreign loop with torchvision's ResNet-18, a module of one's own, and an output with logits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs
import pytest
import torch
import torchvision
from torch import Tensor, nn

import mixcore
from mixcore.errors import ConfigError

IMAGES = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
LABELS = torch.tensor([0, 1, 2, 3])


@attrs.frozen(eq=False)
class Output:
    logits: Tensor


class Own(nn.Module):
    """Two stages and a classifier; `wrapped`: it gives an output with logits."""

    def __init__(self, wrapped: bool = False) -> None:
        super().__init__()
        self.layer1 = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.layer2 = nn.Sequential(nn.Conv2d(8, 16, 3, stride=2, padding=1), nn.BatchNorm2d(16), nn.ReLU())
        self.fc = nn.Linear(16, 4)
        self.wrapped = wrapped

    def forward(self, images: Tensor) -> Tensor | Output:
        logits = self.fc(self.layer2(self.layer1(images)).mean((2, 3)))
        return Output(logits) if self.wrapped else logits


def resnet() -> nn.Module:
    return torchvision.models.resnet18(num_classes=4)


def wrapped() -> nn.Module:
    return Own(wrapped=True)


NETWORKS = [resnet, Own, wrapped]


def made(build: Callable[[], nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    return build()


def as_backbone(net: nn.Module) -> nn.Module:
    last = "layer2" if isinstance(net, Own) else "layer4"
    return mixcore.as_backbone(net, features=last, classifier="fc", image_size=(32, 32))


def step_of(net: nn.Module, mix: Any) -> Any:
    return mixcore.create_step(net, mix=mix, num_classes=4, iterations=9, image_size=(32, 32))


@pytest.mark.parametrize("build", NETWORKS)
@pytest.mark.parametrize(
    "mix", ["mixup", {"name": "manifoldmix", "layers": ["layer1"]}, "puzzlemix"], ids=["mixup", "manifoldmix", "puzzle"]
)
def test_a_plain_module_trains_by_create_step(build: Callable[[], nn.Module], mix: Any) -> None:
    net = made(build)
    step = step_of(net, mix)
    loss, report = step(IMAGES, LABELS)
    loss.backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in net.parameters())
    assert torch.isfinite(report.loss)


@pytest.mark.parametrize("build", NETWORKS)
def test_create_mixer_looks_at_input_gradients_of_a_plain_module(build: Callable[[], nn.Module]) -> None:
    net = made(build)
    mix = mixcore.create_mixer("puzzlemix", num_classes=4, model=net)(IMAGES, LABELS)
    other = mixcore.create_mixer("puzzlemix", num_classes=4, model=as_backbone(net))(IMAGES, LABELS)
    assert torch.equal(mix.images, other.images)
    assert not torch.equal(mix.images, IMAGES)


@pytest.mark.parametrize("build", NETWORKS)
def test_as_backbone_gives_class_activation_and_heads(build: Callable[[], nn.Module]) -> None:
    net = as_backbone(made(build))
    mixer = mixcore.create_mixer("saliencymix", num_classes=4, model=net, saliency="class_activation")
    assert mixer(IMAGES, LABELS).mask is not None
    step = step_of(net, {"name": "automix", "stage": "layer2"})
    loss, _ = step(IMAGES, LABELS)
    loss.backward()
    assert all(parameter.grad is not None for parameter in net.parameters())


@pytest.mark.parametrize(
    ("mix", "need"),
    [
        ({"name": "saliencymix", "saliency": "class_activation"}, "needs class_activation"),
        ({"name": "automix", "stage": "layer2"}, "needs head"),
        ("manifoldmix", "wants stage 1"),
    ],
)
def test_what_needs_more_is_refused_before_anything_runs(mix: Any, need: str) -> None:
    net = made(Own)
    net.register_forward_pre_hook(lambda *_: pytest.fail("the network ran"))
    with pytest.raises(ConfigError, match=rf"{need}[ ,].*mixcore\.as_backbone\(module, features="):
        step_of(net, mix)


def test_a_mixer_with_a_head_works_where_it_needs_none() -> None:
    step = step_of(made(Own), {"name": "automix", "stage": "layer2", "clean_weight": 0.0})
    loss, _ = step(IMAGES, LABELS)
    assert torch.isfinite(loss)
