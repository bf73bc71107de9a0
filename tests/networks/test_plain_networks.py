"""Networks that are plain modules: torchvision's ResNet-18, one's own, and one that gives an output with logits."""

from __future__ import annotations

import attrs
import pytest
import torch
import torchvision
from torch import Tensor, nn

from mixcore.errors import ConfigError, MixcoreError
from mixcore.evidence.activation import class_activation
from mixcore.networks.network import Network, capabilities
from mixcore.networks.shapes import head_width, stage_shape
from mixcore.types import Task

IMAGES = torch.rand(3, 3, 32, 48, generator=torch.Generator().manual_seed(1))
TASK = Task(num_classes=5, in_channels=3, image_size=(32, 48), mean=(0.0,) * 3, std=(1.0,) * 3)


@attrs.frozen(eq=False)
class Output:
    logits: Tensor
    loss: Tensor | None = None


class Own(nn.Module):
    """A module of one's own; `wrapped`: it gives an output with logits."""

    def __init__(self, wrapped: bool = False) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2), nn.ReLU())
        self.end = nn.Linear(8, 5)
        self.wrapped = wrapped

    def forward(self, images: Tensor) -> Tensor | Output:
        logits = self.end(self.body(images).mean((2, 3)))
        return Output(logits) if self.wrapped else logits


def resnet() -> nn.Module:
    torch.manual_seed(0)
    return torchvision.models.resnet18(num_classes=5)


def test_a_plain_module_gives_logits_and_named_stages_and_says_what_it_lacks() -> None:
    module = resnet().eval()
    output = Network(module, stages=("layer2", 0)).forward(IMAGES, stages=("layer2", 0))
    assert torch.equal(output.logits, module(IMAGES))
    assert output.stages["layer2"].shape == (3, 128, 4, 6)
    assert output.stages[0] is IMAGES
    assert capabilities(module) == frozenset()
    for name in ("features", "pooled", "tokens"):
        with pytest.raises(MixcoreError, match=r"plain module.*as_backbone\("):
            getattr(output, name)


def test_a_plain_module_is_mixed_at_a_named_stage() -> None:
    module = resnet().eval()
    network = Network(module, stages=("layer2",))
    flipped = network.forward(IMAGES, stage="layer2", transform=lambda maps: maps.flip(0)).logits
    assert torch.allclose(flipped, module(IMAGES).flip(0), atol=1e-5)
    assert not torch.allclose(flipped, module(IMAGES), atol=1e-3)


def test_an_output_with_logits_is_a_network_too() -> None:
    module = Own(wrapped=True)
    assert torch.equal(Network(module).forward(IMAGES).logits, module(IMAGES).logits)
    with pytest.raises(MixcoreError, match=r"gave a list; expected a tensor of logits .* \.logits"):
        Network(Listing()).forward(IMAGES)


class Listing(nn.Module):
    def forward(self, images: Tensor) -> list[Tensor]:
        return [images]


@pytest.mark.parametrize("stage", ["features", 1])
def test_what_needs_the_interface_is_refused_with_the_way_out(stage: str | int) -> None:
    with pytest.raises(ConfigError, match=r"has no stage .*0 \(the input\), or any module.*as_backbone\("):
        Network(resnet(), stages=(stage,))


def test_a_stage_that_is_misspelt_is_not_sent_to_the_wrapper() -> None:
    with pytest.raises(ConfigError) as caught:
        Network(resnet(), stages=("layr2",))
    assert "as_backbone" not in str(caught.value)


def test_heads_and_class_activation_are_refused_with_the_way_out() -> None:
    network = Network(resnet())
    with pytest.raises(ConfigError, match=r"as_backbone\("):
        head_width(network.module, TASK)
    with pytest.raises(MixcoreError, match=r"as_backbone\("):
        network.forward(IMAGES, head=nn.Linear(512, 5))
    with pytest.raises(MixcoreError, match=r"as_backbone\("):
        class_activation(network, IMAGES, torch.arange(3))


def test_the_shape_of_a_named_stage_is_measured() -> None:
    assert stage_shape(resnet(), "layer3", TASK) == (256, 2, 3)


def test_a_compiled_plain_module_runs_as_it_does_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr(torch, "compile", lambda function: seen.append(function) or function)
    module = Own()
    assert torch.equal(Network(module, compile=True).passes.logits(IMAGES), module(IMAGES))
    assert seen == [module]
