"""`create_mixer(...).pairs(...)` where timm's Mixup stands: as timm's script and loader use it."""

from __future__ import annotations

from typing import Any

import attrs
import pytest
import torch
from timm.data.mixup import Mixup
from timm.loss import SoftTargetCrossEntropy
from torch import Tensor

import mixcore
from mixcore.api import ConfigError, Mix, hookimpl
from mixcore.testing import TinyConvNet


def batch() -> tuple[Tensor, Tensor]:
    return torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(0)), torch.arange(4)


def epochs_of_a_script(mixup_fn: Any, model: Any, epochs: int, off_epoch: int) -> list[Tensor]:
    """What a script in timm's manner does with its `mixup_fn`: called on the batch, told when mixing ends."""
    targets = []
    loss_fn = SoftTargetCrossEntropy()
    for epoch in range(epochs):
        if off_epoch and epoch >= off_epoch and mixup_fn is not None:
            mixup_fn.mixup_enabled = False
        images, target = batch()
        images, target = mixup_fn(images, target)
        loss_fn(model(images), target).backward()
        targets.append(target)
    return targets


def test_it_stands_where_timms_mixup_stands() -> None:
    theirs = Mixup(mixup_alpha=1.0, label_smoothing=0.1, num_classes=4)
    ours = mixcore.create_mixer("mixup", num_classes=4, alpha=1.0).pairs(smoothing=0.1)
    found = {}
    for who, mixup_fn in (("timm", theirs), ("mixcore", ours)):
        model = TinyConvNet(4)
        mixed, clean = epochs_of_a_script(mixup_fn, model, epochs=2, off_epoch=1)
        assert all(parameter.grad is not None for parameter in model.parameters())
        assert mixed.shape == clean.shape == (4, 4)
        assert mixed.dtype == clean.dtype == torch.float32
        torch.testing.assert_close(mixed.sum(1), torch.ones(4))
        found[who] = clean
    torch.testing.assert_close(found["mixcore"], found["timm"])


def test_images_and_targets_are_those_of_the_mix() -> None:
    pairs = mixcore.create_mixer("cutmix", num_classes=4).pairs(smoothing=0.1)
    images, targets = pairs(*batch())
    mix = mixcore.create_mixer("cutmix", num_classes=4)(*batch())
    assert torch.equal(images, mix.images)
    assert torch.equal(targets, mix.targets(batch()[1]).dense(4, smoothing=0.1))


def test_switched_off_it_gives_clean_images_and_smoothed_labels_and_on_again_goes_on() -> None:
    pairs = mixcore.create_mixer("mixup", num_classes=4).pairs(smoothing=0.1)
    assert pairs.mixup_enabled is True
    pairs.mixup_enabled = False
    images, targets = pairs(*batch())
    assert torch.equal(images, batch()[0])
    torch.testing.assert_close(targets, torch.eye(4) * 0.9 + 0.025)
    pairs.mixup_enabled = True
    assert not torch.equal(pairs(*batch())[0], batch()[0])


def test_soft_labels_are_mixed_too() -> None:
    _, targets = mixcore.create_mixer("mixup", num_classes=4).pairs()(batch()[0], torch.eye(4))
    torch.testing.assert_close(targets.sum(1), torch.ones(4))


def test_its_state_is_that_of_its_mixer() -> None:
    first, again = (mixcore.create_mixer("mixup", num_classes=4).pairs() for _ in range(2))
    first(*batch())
    again.load_state_dict(first.state_dict())
    assert torch.equal(again(*batch())[0], first(*batch())[0])


@attrs.define(eq=False, kw_only=True)
class Losing:
    role = "mix"

    @hookimpl
    def generate_mix(self, images: Tensor) -> Mix:
        return Mix.clean(images, losses={"generator": images.mean()})


def test_a_method_with_losses_of_its_own_is_sent_to_the_other_door() -> None:
    mixer = mixcore.create_mixer(Losing(), num_classes=4)
    assert mixer(*batch()).losses.keys() == {"generator"}
    with pytest.raises(ConfigError, match=r"losses.*generator.*create_step"):
        mixer.pairs()(*batch())


@pytest.mark.parametrize("smoothing", [-0.1, 1.0, 7])
def test_a_smoothing_outside_its_range_is_refused(smoothing: float) -> None:
    with pytest.raises(ConfigError, match=r"smoothing.*\[0, 1\)"):
        mixcore.create_mixer("mixup", num_classes=4).pairs(smoothing=smoothing)
