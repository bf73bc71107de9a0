"""The contract hands over the maps and further augmentations that a class declares, everywhere and on any device."""

from __future__ import annotations

import attrs
import pytest
import torch
from torch import Tensor

from mixcore.api import Batch, CropFlip, Data, Mix, Resident, Saliency, Targets, Task, as_saliency, hookimpl, send
from mixcore.testing import Harness, NotApplicableError, Subject, checks_of, companions


@attrs.define(eq=False, kw_only=True)
class ByMaps:
    """Of two images each pixel is that with more of a map; labels by its share."""

    role = "mix"
    spec_version = (1, 2)
    provides = frozenset({"mask"})
    maps = ("objects", "depth")
    augmentations = 2

    sharp: bool = False
    """Another value for the contract to try."""

    @hookimpl
    def generate_mix(self, batch: Batch, rng: torch.Generator) -> Mix:
        images = batch.augmented[1]
        partner = send(torch.randperm(len(images), generator=rng), images.device)
        own = batch.maps["objects"] >= batch.maps["depth"][partner]
        mixed = torch.where(own, batch.images, images[partner])
        return Mix.pair(mixed, partner, own.float().mean((1, 2, 3)), own.float())


ByMaps.contract = {"partner_pixels": False, "own_pixels": True}  # type: ignore[attr-defined]


@attrs.define(eq=False, kw_only=True)
class Stored:
    """A saliency that stands in a map."""

    role = "saliency"
    spec_version = (1, 2)
    maps = ("objects",)

    @hookimpl
    def map_saliency(self, batch: Batch) -> Tensor:
        return batch.maps["objects"].mean(1)


@attrs.define(eq=False, kw_only=True)
class Consistent:
    """Images and their further augmentation are to have the same mean."""

    maps = ("objects",)
    augmentations = 1

    @hookimpl
    def extra_losses(self, batch: Batch, output: object) -> dict[str, Tensor]:
        return {"apart": (batch.augmented[0].mean() - batch.images.mean() + batch.maps["objects"].mean()).abs()}


@attrs.define(eq=False, kw_only=True)
class ByObject:
    """Label weights by how much of the map each source has."""

    role = "labels"
    spec_version = (1, 2)
    maps = ("objects",)

    @hookimpl
    def mix_labels(self, mix: Mix, batch: Batch, labels: Tensor) -> Targets:
        share = batch.maps["objects"].mean((1, 2, 3))[mix.sources] * mix.weights
        return mix.targets(labels, share / share.sum(1, keepdim=True))


CLASSES = [ByMaps, Stored, Consistent, ByObject]


@pytest.mark.parametrize("cls", CLASSES)
def test_a_class_that_reads_what_it_declares_keeps_the_contract(cls: type) -> None:
    passed = []
    for name, check in checks_of(Harness(Subject(plugin=cls)).role).items():
        if name == "two_processes" and cls is not Consistent:
            continue  # slow, and the same for all
        try:
            check(Harness(Subject(plugin=cls)))
            passed.append(name)
        except NotApplicableError:
            pass
    assert {"two_training_steps", "two_steps_on_another_device"} <= set(passed)
    assert len(passed) > 8


def test_stand_ins_follow_the_rows_and_no_two_are_alike() -> None:
    harness = Harness(Subject(plugin=ByMaps))
    step, (images, _) = harness.step(), harness.batch()
    found = companions(step, images)
    assert set(found["maps"]) == {"objects", "depth"}
    assert not torch.equal(*found["maps"].values())
    assert not torch.equal(*found["augmented"])
    for values in found["maps"].values():
        assert values.shape == (6, 1, 16, 24)
        assert values.dtype == torch.float32
        assert 0 < values.min() < values.max() < 1
    some = companions(step, images[[4, 1]])
    assert all(torch.equal(some["maps"][name], values[[4, 1]]) for name, values in found["maps"].items())
    assert all(
        torch.equal(one, other[[4, 1]]) for one, other in zip(some["augmented"], found["augmented"], strict=True)
    )
    last = companions(step, images.to(memory_format=torch.channels_last))
    assert all(one.is_contiguous(memory_format=torch.channels_last) for one in last["augmented"])


class WritesTheMap(ByMaps):
    @hookimpl
    def generate_mix(self, batch: Batch, rng: torch.Generator) -> Mix:
        batch.maps["depth"].zero_()
        return super().generate_mix(batch, rng)


class WritesTheAugmentation(ByMaps):
    @hookimpl
    def generate_mix(self, batch: Batch, rng: torch.Generator) -> Mix:
        batch.augmented[0].zero_()
        return super().generate_mix(batch, rng)


class ReadsTheMap(ByMaps):
    @hookimpl
    def generate_mix(self, batch: Batch, rng: torch.Generator) -> Mix:
        batch.maps["depth"].max().item()
        return super().generate_mix(batch, rng)


class LeavesAHostTensor(ByMaps):
    @hookimpl
    def generate_mix(self, batch: Batch, rng: torch.Generator) -> Mix:
        batch.maps["depth"] * torch.linspace(0, 1, batch.images.shape[3])
        return super().generate_mix(batch, rng)


@pytest.mark.parametrize(
    ("cls", "check", "message"),
    [
        (WritesTheMap, "batch_is_not_modified", "the map 'depth' of the batch was changed"),
        (WritesTheAugmentation, "batch_is_not_modified", "augmentation 0 of the batch was changed"),
        (ReadsTheMap, "two_steps_on_another_device", "item reads on the host"),
        (LeavesAHostTensor, "two_steps_on_another_device", r"mul of a tensor \[24\] on the CPU"),
    ],
)
def test_what_is_done_to_maps_and_augmentations_is_found(cls: type, check: str, message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        checks_of("mix")[check](Harness(Subject(plugin=cls)))


@attrs.define(eq=False, kw_only=True)
class Mapped:
    """Random images with a map."""

    role = "data"

    high: float = 255.0
    """The most of the map."""

    @hookimpl
    def build_data(self) -> Data:
        rng = torch.Generator().manual_seed(0)
        images = torch.randint(0, 256, (24, 3, 8, 8), generator=rng, dtype=torch.uint8)
        task = Task(num_classes=2, in_channels=3, image_size=(8, 8), mean=(0.5,) * 3, std=(0.5,) * 3)
        augment = Scaled(by=self.high / 255)
        train = Resident(images=images[:16], labels=torch.arange(16) % 2, augment=augment, maps={"o": images[:16, :1]})
        return Data(train=train, validation=Resident(images=images[16:], labels=torch.arange(8) % 2), task=task)


@attrs.frozen(kw_only=True)
class Scaled(CropFlip):
    by: float = 1.0

    def on_maps(self, maps: Tensor, uniforms: Tensor) -> Tensor:
        return self(maps, uniforms).float() / 255 * self.by


def test_data_that_give_maps_are_checked_for_them() -> None:
    check = checks_of("data")["maps_fit_the_images"]
    check(Harness(Subject(plugin=Mapped)))
    with pytest.raises(AssertionError, match=r"the map 'o' lies in \[0\.\d+, 1\.9\d*\], not in \[0, 1\]"):
        check(Harness(Subject(plugin=Mapped, options={"high": 510.0})))
    with pytest.raises(NotApplicableError, match="gives no maps"):
        check(Harness(Subject(plugin="digits")))


@attrs.define(eq=False, kw_only=True)
class AsksForOthers:
    """Asks for the saliency of images that are not the batch's."""

    role = "mix"
    spec_version = (1, 2)
    saliency: Saliency = attrs.field(factory=Stored, converter=as_saliency)
    """What is asked."""

    @hookimpl
    def generate_mix(self, images: Tensor, labels: Tensor, probe) -> Mix:  # type: ignore[no-untyped-def]
        probe.saliency(self.saliency, images.flip(3), labels)
        return Mix.clean(images)


def test_a_saliency_that_reads_maps_is_not_asked_for_other_images() -> None:
    harness = Harness(Subject(plugin=AsksForOthers))
    with pytest.raises(Exception, match=r"Stored reads the map 'objects' of the batch, and was asked for images that"):
        harness.mix(*harness.batch())
