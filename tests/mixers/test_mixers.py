"""`create_mixer`: one method in somebody else's loop."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable

import attrs
import pytest
import timm
import torch
from torch import Tensor, nn

import mixcore
from mixcore.api import ConfigError, Mix, Part, hookimpl
from mixcore.mixers import Mixer


def mixer_of(plugin: object) -> Mixer:
    return mixcore.create_mixer(plugin, num_classes=4)


def batch() -> tuple[Tensor, Tensor]:
    return torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(0)), torch.arange(4)


def test_a_mixer_by_name_gives_a_mix_and_dense_targets() -> None:
    mixer = mixcore.create_mixer("mixup", num_classes=4, alpha=1.0)
    images, labels = batch()
    mix = mixer(images, labels)
    lam = mix.lam[:, None, None, None]
    torch.testing.assert_close(mix.images, lam * images + (1 - lam) * images[mix.partner])
    dense = mix.targets(labels).dense(4, smoothing=0.1)
    torch.testing.assert_close(dense.sum(1), torch.ones(4))


def test_calls_are_counted_and_the_count_is_state() -> None:
    images, labels = batch()
    mixer = mixcore.create_mixer("mixup", num_classes=4, seed=3)
    first, second = mixer(images, labels).lam[0], mixer(images, labels).lam[0]
    assert first != second
    again = mixcore.create_mixer("mixup", num_classes=4, seed=3)
    again(images, labels)
    saved = again.state_dict()
    again(images, labels)
    again.load_state_dict(saved)
    assert again(images, labels).lam[0] == second
    assert again(images, labels, iteration=0).lam[0] == first


def test_unknown_names_and_options_are_refused_with_what_exists() -> None:
    with pytest.raises(mixcore.errors.UnknownPluginError, match="mixup"):
        mixcore.create_mixer("mixupp", num_classes=4)
    with pytest.raises(ConfigError, match="alpha"):
        mixcore.create_mixer("mixup", num_classes=4, alhpa=1.0)


def test_the_label_policy_that_a_mixer_suggests_is_not_asked_for() -> None:
    @attrs.define(eq=False, kw_only=True)
    class Suggesting:
        """A mixer whose labels are not installed."""

        role = "mix"
        suggests = {"labels": "not_here"}

        @hookimpl
        def generate_mix(self, images: Tensor) -> Mix:
            return Mix.pair(images, torch.arange(len(images)), 0.5)

    images, labels = batch()
    for given in (Suggesting(), [Suggesting(), "mixup"]):
        mixer = mixcore.create_mixer(given, num_classes=4)
        torch.testing.assert_close(mixer(images, labels).targets(labels).dense(4).sum(1), torch.ones(4))
    with pytest.raises(mixcore.errors.MixcoreError, match="not_here"):
        mixcore.create_step(nn.Linear(1, 4), mix=Suggesting(), num_classes=4, iterations=1)


def test_a_method_that_looks_at_the_network_asks_for_it() -> None:
    @attrs.define(eq=False, kw_only=True)
    class Looking:
        role = "mix"

        @hookimpl
        def generate_mix(self, images: Tensor, labels: Tensor, probe: object) -> Mix:
            probe.input_gradient(images, labels)  # type: ignore[attr-defined]
            return Mix.clean(images)

    with pytest.raises(ConfigError, match="model=net"):
        mixer_of(Looking())(*batch())
    model = timm.create_model("resnet10t", num_classes=4)
    mixer = mixcore.create_mixer(Looking(), num_classes=4, model=model)
    assert mixer(*batch()).sources.shape == (4, 1)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_method_that_is_more_than_a_mixed_batch_is_sent_to_the_other_door() -> None:
    @attrs.define(eq=False, kw_only=True)
    class Inside:
        role = "mix"

        @hookimpl
        def generate_mix(self, images: Tensor) -> Mix:
            return Mix.clean(images, stage="layer1", transform=lambda features: features)

    @attrs.define(eq=False, kw_only=True)
    class Twice(Inside):
        @hookimpl
        def generate_mix(self, images: Tensor) -> Mix:
            return Mix.clean(images, views=(Mix.clean(images),))

    @attrs.define(eq=False, kw_only=True)
    class Learns(Inside):
        @hookimpl
        def build_modules(self) -> dict[str, Part]:
            return {"block": Part(module=nn.Linear(1, 1))}

    @attrs.define(eq=False, kw_only=True)
    class Follows(Inside):
        @hookimpl
        def after_step(self) -> None: ...

    for plugin, why in ((Inside(), "inside the network"), (Twice(), "more than the mixed batch")):
        with pytest.raises(ConfigError, match=f"{why}.*create_step"):
            mixer_of(plugin)(*batch())
    for plugin, why in ((Learns(), r"\(block\)"), (Follows(), "after_step")):
        with pytest.raises(ConfigError, match=f"{why}.*create_step"):
            mixer_of(plugin)


def test_the_batch_is_left_alone_unless_it_is_given_away() -> None:
    images, labels = batch()
    before = images.clone()
    mixcore.create_mixer("cutmix", num_classes=4)(images, labels)
    assert torch.equal(images, before)
    mix = mixcore.create_mixer("cutmix", num_classes=4, overwrite=True)(images, labels)
    assert mix.images.data_ptr() == images.data_ptr()


def test_a_mixer_works_under_the_callers_autocast_and_no_grad() -> None:
    images, labels = batch()
    plain = mixcore.create_mixer("mixup", num_classes=4)(images, labels)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        inside = mixcore.create_mixer("mixup", num_classes=4)(images, labels)
    assert torch.equal(plain.images, inside.images)


@pytest.mark.parametrize("again", [copy.deepcopy, lambda mixer: pickle.loads(pickle.dumps(mixer))])
def test_a_mixer_can_be_copied_and_sent_to_a_worker(again: Callable[[Mixer], Mixer]) -> None:
    images, labels = torch.rand(4, 3, 8, 8), torch.arange(4)
    mixer = mixcore.create_mixer("mixup", num_classes=4)
    mixer(images, labels)
    assert torch.equal(again(mixer)(images, labels).images, mixer(images, labels).images)
