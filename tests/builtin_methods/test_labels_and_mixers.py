"""The builtin label policies, the mixer `none` and the extra `mix_off`."""

from __future__ import annotations

from typing import Any

import pluggy
import pytest
import torch
from torch import Tensor

from mixcore.api import Mix, Step, hookimpl
from mixcore.hooks.calls import PluginCalls
from mixcore.hooks.markers import PROJECT
from mixcore.hooks.specs import HookSpecs
from mixcore_plugins_builtin.labels import Area, Weights, area_weights
from mixcore_plugins_builtin.mix_off import MixOff
from mixcore_plugins_builtin.none import NoMix

LABELS = torch.tensor([3, 1])


def pair(mask: Tensor | None) -> Mix:
    return Mix.pair(torch.zeros(2, 3, 8, 8), torch.tensor([1, 0]), torch.tensor([0.9, 0.2]), mask)


def test_none_gives_the_very_images() -> None:
    images = torch.rand(2, 3, 8, 8)
    mix = NoMix().generate_mix(images)
    assert mix.images is images
    assert mix.masks is None
    assert mix.targets(LABELS).dense(4).argmax(1).tolist() == [3, 1]


def test_weights_are_those_of_the_mixer() -> None:
    targets = Weights().mix_labels(pair(torch.ones(2, 1, 8, 8)), LABELS)
    torch.testing.assert_close(targets.weights, torch.tensor([[0.9, 0.1], [0.2, 0.8]]))
    assert targets.labels is LABELS


def test_area_is_the_mean_of_the_mask() -> None:
    mask = torch.zeros(2, 1, 8, 8)
    mask[0, :, :, :6] = 1
    mask[1, :, :4] = 0.5
    targets = Area().mix_labels(pair(mask), LABELS)
    torch.testing.assert_close(targets.weights, torch.tensor([[0.75, 0.25], [0.25, 0.75]]))
    assert targets.sources.tolist() == [[0, 1], [1, 0]]


def test_area_on_coarse_grids_expanded_views_and_half_precision() -> None:
    coarse = torch.tensor([[1.0, 0.0], [1.0, 0.5]])[None, None].expand(2, 1, 2, 2)
    torch.testing.assert_close(area_weights(coarse), torch.tensor([[0.625, 0.375]] * 2))
    many = torch.ones(1, 1, 224, 224, dtype=torch.float16)
    many[..., :100, :] = 0
    assert area_weights(many).dtype == torch.float32
    torch.testing.assert_close(area_weights(many)[0, 0], torch.tensor(124 / 224))


def test_area_of_three_sources() -> None:
    masks = torch.zeros(1, 2, 4, 4)
    masks[:, 0, :1] = 1
    masks[:, 1, 1:3] = 1
    torch.testing.assert_close(area_weights(masks), torch.tensor([[0.25, 0.5, 0.25]]))


def test_area_over_a_constant_mask_is_lam() -> None:
    mask = torch.tensor([0.9, 0.2])[:, None, None, None]
    torch.testing.assert_close(Area().mix_labels(pair(mask), LABELS).weights, pair(mask).weights)


def test_area_without_masks_keeps_the_weights_of_the_mix() -> None:
    torch.testing.assert_close(Area().mix_labels(pair(None), LABELS).weights, pair(None).weights)
    assert Area.needs == {"mask"}


class _First:
    @hookimpl
    def choose_mixer(self) -> int | None:
        return 0


def choose(epoch: int, *extras: Any) -> int | None:
    manager = pluggy.PluginManager(PROJECT)
    manager.add_hookspecs(HookSpecs)
    chooser = _First()
    for plugin in (chooser, *extras):
        manager.register(plugin)
    step = Step(epoch=epoch, epochs=10, iteration=epoch * 5, iterations=50)
    calls = PluginCalls(manager, chooser, "core", "the core")
    return calls.choose_mixer(probabilities=(1.0,), step=step, rng=step.shared_rng("mixer"))


@pytest.mark.parametrize(("epoch", "expected"), [(0, 0), (6, 0), (7, None), (9, None)])
def test_mix_off_ends_mixing_at_its_epoch(epoch: int, expected: int | None) -> None:
    assert choose(epoch) == 0
    assert choose(epoch, MixOff(epoch=7)) == expected


def test_mix_off_needs_an_epoch_that_exists() -> None:
    with pytest.raises(ValueError, match="epoch"):
        MixOff(epoch=-1)
    with pytest.raises(TypeError, match="epoch"):
        MixOff()  # type: ignore[call-arg]
