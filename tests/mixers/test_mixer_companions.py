"""A loop of one's own hands over the maps and augmentations that a method reads, or is told what to type."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import attrs
import pytest
import torch
from torch import Tensor

import mixcore
from mixcore.api import Batch, Mix, Saliency, as_saliency, hookimpl
from mixcore.errors import ConfigError, DataError
from mixcore.measure.cost import measure
from mixcore.measure.passes import count_passes
from mixcore.testing import tiny_network


@attrs.define(eq=False, kw_only=True)
class Reader:
    """Adds a map and an augmentation to the images."""

    role = "mix"
    spec_version = (1, 2)
    maps = ("objects",)
    augmentations = 2

    @hookimpl
    def generate_mix(self, batch: Batch) -> Mix:
        return Mix.clean(batch.images + batch.maps["objects"] + batch.augmented[1])


@attrs.define(eq=False, kw_only=True)
class Stored:
    """A saliency from a map."""

    role = "saliency"
    spec_version = (1, 2)
    maps = ("objects",)

    @hookimpl
    def map_saliency(self, batch: Batch) -> Tensor:
        return batch.maps["objects"].mean(1)


@attrs.define(eq=False, kw_only=True)
class Holder:
    """Reads nothing itself; the saliency that its option holds does."""

    role = "mix"
    spec_version = (1, 2)
    saliency: Saliency = attrs.field(factory=Stored, converter=as_saliency)
    """A map."""

    @hookimpl
    def generate_mix(self, images: Tensor, labels: Tensor, probe: Any) -> Mix:
        return Mix.clean(images, notes={"map": probe.saliency(self.saliency, images, labels)})


IMAGES, LABELS = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0)), torch.arange(4)
MAP, AGAIN = torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(1)), IMAGES.flip(3)
WHOLE: dict[str, Any] = {"maps": {"objects": MAP}, "augmented": (AGAIN, AGAIN)}


def step_of(mix: object) -> Any:
    return mixcore.create_step(tiny_network((), 5, (8, 8), 3), mix=mix, num_classes=5, iterations=9, image_size=(8, 8))


def mixer_of(mix: object) -> Any:
    return mixcore.create_mixer(mix, num_classes=5, model=tiny_network((), 5, (8, 8), 3))


DOORS: dict[str, Callable[[object], Any]] = {"mixer": mixer_of, "step": step_of}


@pytest.fixture(params=DOORS)
def door(request: pytest.FixtureRequest) -> tuple[str, Callable[[object], Any]]:
    return request.param, DOORS[request.param]


def test_what_is_handed_over_arrives(door: tuple[str, Callable[[object], Any]]) -> None:
    name, make = door
    found = make(Reader())(IMAGES, LABELS, **WHOLE)
    mix = found if name == "mixer" else found[1].mix
    torch.testing.assert_close(mix.images, IMAGES + MAP + AGAIN)


MISSING = [
    (
        {"maps": None},
        "Reader reads the map 'objects', and this batch has no maps; hand it over, floating [4,c,8,8] in ",
    ),
    ({"maps": {"depth": MAP}}, "'objects', and this batch has the maps depth; hand it over"),
    ({"augmented": ()}, "Reader reads 2 further augmentations of each batch, and this one has none; hand them over, "),
    ({"augmented": [AGAIN]}, "and this one has 1; hand them over, float32 [4, 3, 8, 8] each: "),
    ({"maps": MAP}, "maps is a Tensor; expected maps by name: "),
    ({"augmented": AGAIN}, "augmented is float32 [4, 3, 8, 8]; expected a tuple of images: "),
]


@pytest.mark.parametrize(("changes", "message"), MISSING)
def test_what_is_missing_is_named_with_what_to_type(
    door: tuple[str, Callable[[object], Any]], changes: dict[str, Any], message: str
) -> None:
    name, make = door
    typed = 'maps={"objects": ...})' if "maps" in changes else "augmented=(again, ...))"
    with pytest.raises(DataError, match=re.escape(message)) as caught:
        make(Reader())(IMAGES, LABELS, **{**WHOLE, **changes})
    assert f"{name}(images, labels, {typed}" in str(caught.value)


def test_the_map_of_a_saliency_is_asked_for_in_its_own_name(door: tuple[str, Callable[[object], Any]]) -> None:
    _, make = door
    make(Holder())(IMAGES, LABELS, maps={"objects": MAP})
    with pytest.raises(DataError, match="Stored reads the map 'objects'"):
        make(Holder())(IMAGES, LABELS)


WRONG = [
    ({"maps": {"objects": MAP[:2]}}, "the map 'objects' is float32 [2, 1, 8, 8]; expected [4,c,8,8]"),
    ({"maps": {"objects": MAP[:, 0]}}, "the map 'objects' is float32 [4, 8, 8]; expected [4,c,8,8]"),
    ({"maps": {"objects": 1}}, "the map 'objects' is a int; expected [4,c,8,8]"),
    ({"maps": {"objects": MAP.byte()}}, "expected floating values in [0,1]: objects.float() / 255"),
    ({"maps": {"objects": MAP > 0.5}}, "expected floating values in [0,1]: objects.float()"),
    ({"maps": {"objects": MAP.to("meta")}}, "images are on cpu, the map 'objects' on meta; bring them together"),
    ({"augmented": (AGAIN, AGAIN[:2])}, "augmentation 1 is float32 [2, 3, 8, 8]; expected float32 [4, 3, 8, 8]"),
    ({"augmented": (AGAIN.double(), AGAIN)}, "augmentation 0 is float64 [4, 3, 8, 8]; expected float32"),
    ({"index": LABELS.int()}, "index is int32 [4]; expected int64 [4], a row of the set per image"),
]


@pytest.mark.parametrize(("changes", "message"), WRONG)
def test_what_is_not_of_these_images_is_refused(
    door: tuple[str, Callable[[object], Any]], changes: dict[str, Any], message: str
) -> None:
    _, make = door
    with pytest.raises(DataError, match=re.escape(message)):
        make(Reader())(IMAGES, LABELS, **{**WHOLE, **changes})


def test_a_function_of_images_and_labels_is_refused_at_once() -> None:
    for mix in (Reader(), Holder()):
        with pytest.raises(ConfigError, match=r"reads the map 'objects' of a batch, which a function of images and"):
            mixer_of(mix).pairs()
    mixer_of("mixup").pairs()


def test_costs_and_passes_are_measured_with_stand_ins() -> None:
    costs = measure({"none": lambda: step_of("none"), "reader": lambda: step_of(Reader())}, IMAGES, LABELS, repeats=1)
    assert costs["reader"].mix_ms > 0
    assert count_passes(step_of(Holder()), IMAGES, LABELS).forward == 1
