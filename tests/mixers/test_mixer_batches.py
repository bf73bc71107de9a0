"""What both doors refuse in words: batches, labels and networks that do not fit."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from typing import Any

import attrs
import pytest
import timm
import torch
from torch import Tensor, nn

import mixcore
from mixcore.api import ConfigError, DataError, Mix, hookimpl
from mixcore.testing import TinyConvNet, Tripwire

Call = Callable[[Any, Any], Any]


@functools.cache
def of_mixer(method: str) -> Call:
    return mixcore.create_mixer(method, num_classes=4)


@functools.cache
def of_pairs(method: str) -> Call:
    return mixcore.create_mixer(method, num_classes=4).pairs()


@functools.cache
def of_clean_pairs(method: str) -> Call:
    pairs = mixcore.create_mixer(method, num_classes=4).pairs()
    pairs.mixup_enabled = False
    return pairs


@functools.cache
def of_step(method: str, kind: str = "class") -> Call:
    return mixcore.create_step(
        TinyConvNet(4), mix=method, num_classes=4, iterations=10, image_size=(16, 16), label_kind=kind
    )


@functools.cache
def of_soft_step(method: str) -> Call:
    return of_step(method, "soft")


IMAGES, LABELS, SOFT = torch.rand(4, 3, 16, 16), torch.arange(4), torch.eye(4)

BAD_IMAGES = {
    "uint8": ((IMAGES * 255).byte(), r"images are uint8 \[4, 3, 16, 16\].*\.float\(\) / 255"),
    "int64": ((IMAGES * 255).long(), r"images are int64.*floating"),
    "one sample": (IMAGES[0], r"images are float32 \[3, 16, 16\].*one image.*collate"),
    "five dimensions": (IMAGES[None], r"expected floating \[N,C,H,W\]"),
    "graph": (IMAGES.clone().requires_grad_(), r"images\.detach\(\)"),
    "none at all": (IMAGES[:0], r"no image"),
    "a list": ([1, 2, 3, 4], r"images are a list; expected a floating tensor \[N,C,H,W\]"),
    "an array": (IMAGES.numpy(), r"images are a ndarray"),
}
BAD_LABELS = {
    "int32": (LABELS.int(), r"labels are int32 \[4\].*labels\.long\(\)"),
    "another length": (torch.arange(3), r"3 labels.*4 images"),
    "out of range": (LABELS + 1, r"from 1 to 4.*0\.\.3"),
    "negative": (LABELS - 1, r"from -1 to 2.*0\.\.3"),
    "a column": (LABELS[:, None], r"labels are int64 \[4, 1\]"),
    "one-hot integers": (SOFT.long(), r"labels are int64 \[4, 4\].*labels\.float\(\)"),
    "a list": ([0, 1, 2, 3], r"labels are a list.*torch\.as_tensor"),
    "elsewhere": (LABELS.to("meta"), r"images are on cpu, labels on meta.*labels\.to\(images\.device\)"),
}
BAD_SOFT = {
    "another width": (torch.rand(4, 7), r"labels are float32 \[4, 7\].*\[N,4\]"),
    "no width": (torch.rand(4), r"labels are float32 \[4\].*\[N,4\]"),
    "another length": (torch.rand(3, 4), r"3 labels.*4 images"),
}


@pytest.mark.parametrize("what", BAD_IMAGES)
@pytest.mark.parametrize("door", [of_mixer, of_pairs, of_clean_pairs, of_step, of_soft_step])
def test_images_that_do_not_fit_are_refused_in_words(door: Callable[[str], Call], what: str) -> None:
    images, said = BAD_IMAGES[what]
    with pytest.raises(DataError, match=said):
        door("cutmix")(images, SOFT if door is of_soft_step else LABELS)


@pytest.mark.parametrize("what", BAD_LABELS)
@pytest.mark.parametrize("door", [of_mixer, of_pairs, of_clean_pairs, of_step])
def test_class_labels_that_do_not_fit_are_refused_in_words(door: Callable[[str], Call], what: str) -> None:
    labels, said = BAD_LABELS[what]
    with pytest.raises(DataError, match=said):
        door("cutmix")(IMAGES, labels)


@pytest.mark.parametrize("what", BAD_SOFT)
@pytest.mark.parametrize("door", [of_mixer, of_pairs, of_clean_pairs, of_soft_step])
def test_soft_labels_that_do_not_fit_are_refused_in_words(door: Callable[[str], Call], what: str) -> None:
    labels, said = BAD_SOFT[what]
    with pytest.raises(DataError, match=said):
        door("cutmix")(IMAGES, labels)


def test_a_label_out_of_range_is_found_in_any_batch_on_the_cpu() -> None:
    mixer = of_mixer("cutmix")
    mixer(IMAGES, LABELS)
    with pytest.raises(DataError, match=r"0\.\.3"):
        mixer(IMAGES, LABELS + 9)


def test_a_step_takes_the_kind_of_labels_and_the_channels_it_was_made_for() -> None:
    with pytest.raises(DataError, match=r"label_kind='class'.*label_kind='soft'"):
        of_step("cutmix")(IMAGES, SOFT)
    with pytest.raises(DataError, match=r"label_kind='soft'.*label_kind='class'"):
        of_soft_step("cutmix")(IMAGES, LABELS)
    with pytest.raises(DataError, match=r"in_channels=3.*in_channels=1"):
        of_step("cutmix")(IMAGES[:, :1], LABELS)


def test_a_step_is_checked_by_keyword_too() -> None:
    step: Any = of_step("cutmix")
    with pytest.raises(DataError, match="uint8"):
        step(images=IMAGES.byte(), labels=LABELS)
    loss, _ = step(images=IMAGES, labels=LABELS)
    assert torch.isfinite(loss)


@pytest.mark.parametrize("door", [of_mixer, of_step])
def test_a_guarded_batch_is_checked_and_mixed_as_any_other(door: Callable[[str], Call]) -> None:
    images = IMAGES.as_subclass(Tripwire)
    for labels in (LABELS, LABELS.as_subclass(Tripwire)):
        door("cutmix")(images, labels)
        with pytest.raises(DataError, match=r"0\.\.3"):
            door("cutmix")(images, labels + 1)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_every_floating_batch_is_taken(dtype: torch.dtype) -> None:
    assert of_mixer("cutmix")(IMAGES.to(dtype), LABELS).images.dtype == dtype


@attrs.define(eq=False, kw_only=True)
class Looking:
    role = "mix"

    @hookimpl
    def generate_mix(self, images: Tensor, labels: Tensor, probe: Any) -> Mix:
        probe.input_gradient(images, labels)
        return Mix.clean(images)


def test_a_network_of_another_number_of_classes_is_refused_where_the_classifier_says_it() -> None:
    net = timm.create_model("resnet10t", num_classes=7)
    with pytest.raises(ConfigError, match=r"7 classes.*num_classes=10"):
        mixcore.create_mixer(Looking(), num_classes=10, model=net)
    with pytest.raises(ConfigError, match=r"7 classes.*num_classes=10"):
        mixcore.create_step(net, mix="mixup", num_classes=10, iterations=1)


class Silent(nn.Module):
    """A network whose classifier says nothing of its width."""

    def __init__(self) -> None:
        super().__init__()
        self.net = TinyConvNet(7)
        self.forward_features = self.net.forward_features

    def forward_head(self, features: Tensor, pre_logits: bool = False) -> Tensor:
        return self.net.forward_head(features, pre_logits=pre_logits)

    def get_classifier(self) -> nn.Module:
        return nn.Identity()


@pytest.mark.parametrize("door", ["mixer", "step"])
def test_or_at_the_first_call(door: str) -> None:
    images, labels = torch.rand(4, 3, 16, 16), torch.tensor([9, 8, 7, 6])
    call: Any
    if door == "mixer":
        call = mixcore.create_mixer(Looking(), num_classes=10, model=Silent())
    else:
        call = mixcore.create_step(Silent(), mix="mixup", num_classes=10, iterations=1, image_size=(16, 16))
    with pytest.raises(ConfigError, match=re.escape("logits [4, 7]") + r".*10 classes"):
        call(images, labels)


def test_a_network_without_timms_interface_is_looked_at_as_a_whole() -> None:
    bare = nn.Sequential(nn.Flatten(), nn.Linear(768, 4))
    mixer = mixcore.create_mixer(Looking(), num_classes=4, model=bare)
    assert mixer(IMAGES, LABELS).sources.shape[0] == 4
    assert mixcore.create_mixer("cutmix", num_classes=4, model=bare)(IMAGES, LABELS).sources.shape == (4, 2)
