"""Networks that the caller compiled, in both doors of a foreign loop: the numbers of the plain ones, or a refusal."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import mixcore
from mixcore.errors import ConfigError, MixcoreError

IMAGES = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
LABELS = torch.tensor([0, 1, 2, 3])
MANIFOLD = {"name": "manifoldmix", "layers": ["layer1"]}
Build = Callable[[], nn.Module]


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer1 = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.layer2 = nn.Sequential(nn.Conv2d(8, 16, 3, stride=2, padding=1), nn.BatchNorm2d(16), nn.ReLU())
        self.fc = nn.Linear(16, 4)

    def forward(self, images: Tensor) -> Tensor:
        return self.fc(self.layer2(self.layer1(images)).mean((2, 3)))


def plain() -> nn.Module:
    torch.manual_seed(0)
    return Small()


def halved() -> nn.Module:
    return mixcore.as_backbone(plain(), features="layer2", classifier="fc", image_size=(32, 32))


def compiled(net: nn.Module) -> Any:
    return torch.compile(net, backend="eager")


def in_place(net: nn.Module) -> nn.Module:
    net.compile(backend="eager")
    return net


def run_before(net: nn.Module) -> Any:
    """Compiled, and traced before mixcore sees it."""
    state = {name: value.clone() for name, value in net.state_dict().items()}
    found = compiled(net)
    found(IMAGES).sum().backward()
    net.load_state_dict(state)
    return found


WAYS = [compiled, in_place, run_before]


@pytest.fixture(autouse=True)
def fresh_compiler() -> Iterator[None]:
    yield
    torch._dynamo.reset()


def losses(net: Any, mix: Any, **rest: Any) -> list[float]:
    """Three optimizer steps."""
    step = mixcore.create_step(net, mix=mix, num_classes=4, iterations=9, image_size=(32, 32), **rest)
    optimizer = torch.optim.SGD(step.param_groups(lr=0.1))
    found = []
    for _ in range(3):
        loss, _ = step(IMAGES, LABELS)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        step.after_step()
        found.append(loss.item())
    return found


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("build", "mix"), [(plain, "mixup"), (plain, "puzzlemix"), (halved, MANIFOLD)], ids=["mixup", "puzzlemix", "halves"]
)
def test_a_compiled_network_gives_the_same_losses(way: Callable[[nn.Module], Any], build: Build, mix: Any) -> None:
    assert losses(way(build()), mix) == losses(build(), mix)


@pytest.mark.parametrize("build", [plain, halved])
@pytest.mark.parametrize("way", WAYS)
def test_create_mixer_looks_at_a_compiled_network(way: Callable[[nn.Module], Any], build: Build) -> None:
    option = {"saliency": "class_activation" if build is halved else "input_grad"}
    nets = build(), way(build())
    mixes = [mixcore.create_mixer("saliencymix", num_classes=4, model=net, **option)(IMAGES, LABELS) for net in nets]
    assert torch.equal(mixes[0].images, mixes[1].images)
    scores = [net(mix.images) for net, mix in zip(nets, mixes, strict=True)]
    assert torch.equal(scores[0], scores[1])


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("stage", ["layer1", "_orig_mod.layer1"])
def test_a_stage_inside_a_compiled_network_is_refused(way: Callable[[nn.Module], Any], stage: str) -> None:
    with pytest.raises(ConfigError, match=r"stage '.*layer1' cannot be .* Small is compiled; hand over .*compile=True"):
        losses(way(plain()), {"name": "manifoldmix", "layers": [stage]})


def test_a_compiled_part_of_a_network_can_be_a_stage_but_not_hold_one() -> None:
    net = plain()
    net.layer1 = compiled(net.layer1)
    assert losses(net, MANIFOLD) == losses(plain(), MANIFOLD)
    for stage in ("layer1._orig_mod.0", "layer2", "layer2.1"):
        in_place(net.layer2)
        with pytest.raises(ConfigError, match=r"'layer[12]' of Small is compiled"):
            losses(net, {"name": "manifoldmix", "layers": [stage]})


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # torch, where a graph goes on behind a hook
def test_the_step_compiles_a_plain_network_and_mixes_at_its_stages(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = [losses(build(), mix) for build in (plain, halved) for mix in (MANIFOLD, "puzzlemix")]
    compiles = []

    def compile_eagerly(function: Any) -> Any:
        compiles.append(function)
        return real(function, backend="eager")

    real = torch.compile
    monkeypatch.setattr(torch, "compile", functools.wraps(real)(compile_eagerly))
    found = [losses(build(), mix, compile=True) for build in (plain, halved) for mix in (MANIFOLD, "puzzlemix")]
    assert compiles
    assert found == wanted


def test_halves_that_run_uncompiled_are_told(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "mixcore"):
        losses(plain(), "mixup")
        losses(compiled(plain()), "mixup")
        assert not caplog.messages
        losses(compiled(halved()), "mixup")
    assert caplog.messages == [
        "Backbone came compiled, and the step runs its features and head apart, which are not; hand over the module as "
        "it was before torch.compile, with create_step(..., compile=True)"
    ]


@pytest.mark.parametrize("way", WAYS)
def test_as_backbone_cuts_no_compiled_forward(way: Callable[[nn.Module], Any]) -> None:
    with pytest.raises(ConfigError, match=r"as_backbone: Small is compiled.*wrap the module as it was before"):
        mixcore.as_backbone(way(plain()), features="layer2", classifier="fc", image_size=(32, 32))


def test_a_network_that_is_compiled_after_it_was_wrapped_says_so() -> None:
    net = plain()
    backbone = mixcore.as_backbone(net, features="layer2", classifier="fc", image_size=(32, 32))
    in_place(net)
    net(IMAGES)
    with pytest.raises(MixcoreError, match=r"no longer calls 'layer2'.*do not compile it"):
        backbone.forward_features(IMAGES)
