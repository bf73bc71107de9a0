"""Taps act in the forward that asks, once, and nowhere else."""

from __future__ import annotations

import copy
import functools

import pytest
import timm
import torch
from torch import Tensor, nn

from mixcore.errors import ConfigError, MixcoreError
from mixcore.networks.network import Network


@pytest.fixture
def images() -> Tensor:
    return torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def resnet() -> nn.Module:
    torch.manual_seed(0)
    return timm.create_model("resnet10t", num_classes=5)


def vit() -> nn.Module:
    torch.manual_seed(0)
    return timm.create_model(
        "vit_tiny_patch16_224", num_classes=5, img_size=32, patch_size=8, depth=2, embed_dim=24, num_heads=2
    )


class Counted:
    """A transform that counts its calls."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, features: Tensor) -> Tensor:
        self.calls += 1
        return features.flip(0)


@pytest.mark.parametrize("stage", [1, "layer3"])
def test_a_transform_replaces_the_raw_map(images, stage) -> None:
    module = resnet().eval()
    network = Network(module, stages=(stage,))
    transform = Counted()
    mixed = network.forward(images, stage=stage, transform=transform).logits
    assert transform.calls == 1
    torch.testing.assert_close(mixed, module(images).flip(0))


def test_a_transform_at_the_input_and_at_the_features(images) -> None:
    module = resnet().eval()
    network = Network(module)
    for stage in (0, "features"):
        torch.testing.assert_close(
            network.forward(images, stage=stage, transform=lambda raw: raw.flip(0)).logits, module(images).flip(0)
        )


def test_a_transform_sees_tokens_with_their_prefix(images) -> None:
    shapes = []
    network = Network(vit(), stages=("blocks.0",))
    network.forward(images, stage="blocks.0", transform=lambda raw: shapes.append(raw.shape) or raw)
    assert shapes == [(3, 17, 24)]


def test_the_map_that_was_read_is_the_one_that_went_on(images) -> None:
    network = Network(resnet().eval(), stages=(1,))
    plain = network.forward(images, stages=(1,)).stages[1]
    flipped = network.forward(images, stages=(1,), stage=1, transform=lambda raw: raw.flip(0)).stages[1]
    torch.testing.assert_close(flipped, plain.flip(0))


def test_taps_are_inert_outside(images) -> None:
    module = resnet().eval()
    plain = module(images)
    network = Network(module, stages=(1, 2))
    transform = Counted()
    network.forward(images, stage=1, transform=transform)
    torch.testing.assert_close(module(images), plain, rtol=0, atol=0)
    assert network.forward(images).stages == {}
    assert transform.calls == 1


def test_taps_are_inert_after_an_exception(images) -> None:
    module = resnet().eval()
    network = Network(module, stages=(1,))

    def fail(raw: Tensor) -> Tensor:
        raise ZeroDivisionError

    plain = module(images)
    with pytest.raises(ZeroDivisionError):
        network.forward(images, stage=1, transform=fail)
    torch.testing.assert_close(module(images), plain, rtol=0, atol=0)


def test_a_tapped_network_can_be_copied(images) -> None:
    network = Network(resnet().eval(), stages=(1,))
    twin = copy.deepcopy(network.module)
    transform = Counted()
    network.forward(images, stage=1, transform=transform)
    torch.testing.assert_close(twin(images), network.module(images), rtol=0, atol=0)
    assert transform.calls == 1


def test_a_module_that_is_called_twice_is_mixed_once(images) -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.shared, self.fc = nn.Conv2d(3, 3, 3, padding=1), nn.Linear(3, 5)

        def forward_features(self, x: Tensor) -> Tensor:
            return self.shared(self.shared(x))

        def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
            return x.mean((2, 3)) if pre_logits else self.fc(x.mean((2, 3)))

        def get_classifier(self) -> nn.Module:
            return self.fc

    transform = Counted()
    Network(Twice(), stages=("shared",)).forward(images, stage="shared", transform=transform)
    assert transform.calls == 1


def test_checkpointing_does_not_mix_again_in_backward(images) -> None:
    """Activation checkpointing calls the blocks again in backward; taps must not act there."""
    reference = vit()
    checkpointed = copy.deepcopy(reference)
    checkpointed.set_grad_checkpointing()
    gradients = []
    for module in (reference, checkpointed):
        network = Network(module, stages=("features",), attention=True)
        output = network.forward(images, stage="features", transform=lambda raw: raw.flip(0), attention=True)
        row = output.attention[-1].row().clone()
        output.logits.logsumexp(1).sum().backward()
        torch.testing.assert_close(output.attention[-1].row(), row, rtol=0, atol=0)
        gradients.append([p.grad for p in module.parameters()])
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_a_stage_that_checkpointing_bypasses_is_an_error(images) -> None:
    module = resnet()
    module.set_grad_checkpointing()
    network = Network(module, stages=(1,))
    with pytest.raises(MixcoreError, match=r"never called stage layer1.*checkpoint = false"):
        network.forward(images, stage=1, transform=lambda raw: raw)


def test_what_was_not_declared_is_refused(images) -> None:
    network = Network(vit(), stages=(1,))
    with pytest.raises(MixcoreError, match=r"stages = \(2,\)"):
        network.forward(images, stages=(2,))
    with pytest.raises(MixcoreError, match="attention was not declared"):
        network.forward(images, attention=True)
    assert network.forward(images, stages=("blocks.0",)).stages.keys() == {"blocks.0"}


def test_attention_is_refused_where_there_is_none() -> None:
    with pytest.raises(ConfigError, match=r"ResNet has no attention.*timm_vit \(mixcore .*options that read no"):
        Network(resnet(), attention=True)


def test_a_stage_without_a_map_is_an_error(images) -> None:
    class Pair(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return x, x

    module = resnet()
    module.layer1 = nn.Sequential(Pair(), nn.Identity())
    with pytest.raises(MixcoreError, match="puts out a tuple"):
        Network(module, stages=("layer1.0",)).forward(images, stages=("layer1.0",))


def test_the_transform_runs_with_autocast_off(images) -> None:
    seen = []

    def transform(raw: Tensor) -> Tensor:
        seen.append((raw.dtype, torch.is_autocast_enabled("cpu")))
        return raw

    autocast = functools.partial(torch.autocast, "cpu", dtype=torch.bfloat16)
    network = Network(resnet(), stages=("layer1.0.conv1",), autocast=autocast)
    output = network.forward(images, stage="layer1.0.conv1", transform=transform)
    assert seen == [(torch.bfloat16, False)]
    assert output.logits.dtype == output.pooled.dtype == torch.float32


# torch looks at .grad of every tensor while it traces, and hides the warning by a filter of its own
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
def test_taps_act_in_a_compiled_network(images, monkeypatch) -> None:
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))
    module = vit().eval()
    plain = module(images)
    network = Network(module, stages=(1, 2), attention=True, compile=True)
    transform = Counted()
    for stage in (1, 2, 1):
        output = network.forward(images, stage=stage, transform=transform, stages=(1,), attention=True)
        torch.testing.assert_close(output.logits, plain.flip(0), rtol=1e-4, atol=1e-5)
        assert output.stages[1].shape == (3, 24, 4, 4)
        assert len(output.attention) == 2
    assert transform.calls == 3
    torch.testing.assert_close(network.forward(images).logits, plain, rtol=1e-4, atol=1e-5)
    assert transform.calls == 3
