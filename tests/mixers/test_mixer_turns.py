"""The core's own keys in `create_mixer`: whose turn it is, how often, and among how many images it mixes."""

from __future__ import annotations

from typing import Any

import attrs
import pytest
import torch
from torch import Tensor

import mixcore
from mixcore.api import ConfigError, Mix, hookimpl
from mixcore.testing import TinyConvNet


def batch(count: int = 8) -> tuple[Tensor, Tensor]:
    images = torch.rand(count, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    return images, torch.arange(count) % 4


@attrs.define(eq=False, kw_only=True)
class Stripes:
    """Every mix says which one made it, by a lam that no other has."""

    role = "mix"

    share: float = 0.25

    @hookimpl
    def generate_mix(self, images: Tensor) -> Mix:
        return Mix.pair(images.clone(), torch.arange(len(images)).roll(1), self.share)


def lams(mixer: Any, calls: int = 40) -> list[float]:
    return [float(mixer(*batch()).lam[0]) for _ in range(calls)]


def test_probability_is_the_share_of_batches_that_are_mixed() -> None:
    clean = mixcore.create_mixer("mixup", num_classes=4, probability=0.0)(*batch())
    assert clean.sources.shape == (8, 1)
    assert torch.equal(clean.images, batch()[0])
    found = lams(mixcore.create_mixer(Stripes(), num_classes=4, probability=0.5), calls=200)
    assert set(found) == {0.25, 1.0}
    assert 60 < found.count(0.25) < 140
    assert set(lams(mixcore.create_mixer(Stripes(), num_classes=4))) == {0.25}


def test_a_group_mixes_among_itself_with_a_draw_of_its_own() -> None:
    mix = mixcore.create_mixer("mixup", num_classes=4, group_size=2)(*batch())
    assert len(mix.lam.unique()) == 4
    assert torch.equal(mix.partner // 2, torch.arange(8) // 2)


def test_a_list_takes_turns_by_its_probabilities() -> None:
    turns = [Stripes(share=0.25), {"name": "none", "probability": 0.2}, Stripes(share=0.75)]
    found = lams(mixcore.create_mixer(turns, num_classes=4), calls=300)
    assert 90 < found.count(0.25) < 150
    assert 90 < found.count(0.75) < 150
    assert 30 < found.count(1.0) < 90


def test_a_mixer_draws_what_a_run_with_its_seed_draws() -> None:
    tables: list[Any] = [
        {"name": "mixup", "probability": 0.4},
        {"name": "cutmix", "alpha": 0.5, "probability": 0.4, "group_size": 4},
    ]
    mixer = mixcore.create_mixer(tables, num_classes=4, seed=9)
    step = mixcore.create_step(TinyConvNet(4), mix=tables, num_classes=4, iterations=20, seed=9, image_size=(16, 16))
    chosen = set()
    for iteration in range(20):
        mix = mixer(*batch(), epoch=iteration // 10, iteration=iteration)
        _, report = step(*batch(), epoch=iteration // 10, iteration=iteration)
        assert torch.equal(mix.images, report.mix.images)
        assert torch.equal(mix.sources, report.mix.sources)
        chosen.add(report.mixer)
    assert chosen == {"mixup", "cutmix", None}


@pytest.mark.parametrize("door", ["mixer", "step"])
def test_probabilities_that_make_no_sense_are_refused(door: str) -> None:
    def make(mix: Any) -> object:
        if door == "mixer":
            return mixcore.create_mixer(mix, num_classes=4)
        return mixcore.create_step(TinyConvNet(4), mix=mix, num_classes=4, iterations=1, image_size=(16, 16))

    with pytest.raises(ConfigError, match=r"sum to 1\.6, expected at most 1"):
        make([{"name": "mixup", "probability": 0.8}, {"name": "cutmix", "probability": 0.8}])
    with pytest.raises(ConfigError, match="leave nothing to the tables without one"):
        make([{"name": "mixup", "probability": 1.0}, "cutmix"])
    with pytest.raises(ConfigError, match="probability"):
        make({"name": "mixup", "probability": 1.5})


def test_keys_stand_where_they_belong() -> None:
    with pytest.raises(ConfigError, match=r"Stripes\(share=\.\.\.\)"):
        mixcore.create_mixer(Stripes(), num_classes=4, share=0.5)
    with pytest.raises(ConfigError, match=r"go into its tables.*alpha"):
        mixcore.create_mixer(["mixup", "cutmix"], num_classes=4, alpha=0.5)
    with pytest.raises(ConfigError, match="group_size"):
        mixcore.create_mixer(Stripes(), num_classes=4, group_size=0)


def test_a_batch_that_groups_do_not_divide_is_refused_with_the_way_out() -> None:
    mixer = mixcore.create_mixer("mixup", num_classes=4, group_size=4)
    mixer(*batch(8))
    with pytest.raises(ConfigError, match=r"group_size = 4 does not divide the 6 images.*drop_last=True"):
        mixer(*batch(6))


def test_of_several_each_is_held_to_what_a_mixed_batch_can_give() -> None:
    @attrs.define(eq=False, kw_only=True)
    class Follows(Stripes):
        @hookimpl
        def after_step(self) -> None: ...

    with pytest.raises(ConfigError, match=r"after_step.*create_step"):
        mixcore.create_mixer(["mixup", Follows()], num_classes=4)


@pytest.mark.parametrize("settings", [{"mix": Stripes}, {"labels": Stripes}, {"loss": Stripes}, {"extra": [Stripes]}])
def test_a_class_given_for_an_instance_says_how_to_make_one(settings: Any) -> None:
    with pytest.raises(ConfigError, match=r"Stripes is a class.*Stripes\(\)"):
        mixcore.create_step(TinyConvNet(4), num_classes=4, iterations=1, **settings)


@pytest.mark.parametrize("given", [Stripes, ["mixup", Stripes]])
@pytest.mark.parametrize("options", [{}, {"probability": 0.5}])
def test_a_mixer_says_so_too(given: Any, options: Any) -> None:
    with pytest.raises(ConfigError, match=r"Stripes is a class.*Stripes\(\)|into its tables"):
        mixcore.create_mixer(given, num_classes=4, **options)
