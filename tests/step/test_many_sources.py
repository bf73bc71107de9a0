"""Mixes of one, three and four sources, some of weight 0, on every way that a pair goes."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import pytest
import torch
import torchvision
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor
from torch.nn import functional as F

import mixcore
from mixcore.api import Mix, hookimpl
from mixcore.discovery.manager import build_method_plugins
from mixcore.errors import HookError
from mixcore.testing import Harness, NotApplicableError, Subject, TinyConvNet, checks_of
from mixcore.testing.fakes import Bands
from mixcore.types import LabelKind, Targets, Task

COUNTS = (1, 3, 4)
IMAGES = torch.rand(6, 3, 16, 16, generator=torch.Generator().manual_seed(0))
LABELS = torch.tensor([0, 1, 2, 3, 4, 1])
CLASSES = 5
LOSSES = [
    {"name": "soft_cross_entropy", "smoothing": 0.1},
    {"name": "bce", "smoothing": 0.1},
    {"name": "bce", "target_threshold": 0.2},
    {"name": "bce_softmax"},
    {"name": "mse"},
    {"name": "decouplemix"},
    {"name": "decouplemix", "mode": "less"},
    {"name": "decouplemix", "mode": "more"},
    {"name": "decouplemix_bce", "xi": 0.5, "thr": 0.8},
]


def network() -> TinyConvNet:
    torch.manual_seed(0)
    return TinyConvNet(CLASSES, in_channels=3)


def step_of(mix: Any, model: Any = None, **rest: Any) -> Any:
    model = network() if model is None else model
    return mixcore.create_step(model, mix=mix, num_classes=CLASSES, iterations=9, image_size=(16, 16), **rest)


def columns_of(mix: Mix) -> Tensor:
    """[M,S] how many columns of a mixed image are those of each source, by comparing pixels."""
    same = (mix.images[:, None] == IMAGES[mix.sources]).all((2, 3))
    return same.sum(2)


def rows_of(weights: Tensor, sources: Tensor) -> Tensor:
    """[M,K] target rows, one number after the other."""
    rows = torch.zeros(len(weights), CLASSES)
    for row, column in itertools.product(range(weights.shape[0]), range(weights.shape[1])):
        rows[row, LABELS[sources[row, column]]] += weights[row, column]
    return rows


@pytest.mark.parametrize("labels", ["weights", "area"])
@pytest.mark.parametrize("count", COUNTS)
def test_a_step_trains_on_the_shares_of_all_sources(count: int, labels: str) -> None:
    step = step_of([Bands(sources=count)], labels=labels) if count > 1 or labels == "weights" else None
    step = step or step_of([Bands(sources=1), Bands(sources=3)], labels=labels)  # a policy of masks wants some
    loss, report = step(IMAGES, LABELS)
    loss.backward()
    mix, weights = report.mix, columns_of(report.mix) / 16
    torch.testing.assert_close(report.targets.weights, weights)
    wanted = F.cross_entropy(network().train()(mix.images), rows_of(weights, mix.sources))
    torch.testing.assert_close(loss.detach(), wanted.detach())
    torch.testing.assert_close(report.lam, weights[:, 0].mean())
    torch.testing.assert_close(report.sources, (weights > 0).float().sum(1).mean())
    if mix.sources.shape[1] > 2:
        assert (weights == 0).any(), "some source weighs nothing"


@pytest.mark.parametrize("count", COUNTS)
def test_attended_weights_are_shares_of_all_sources(count: int) -> None:
    mixers = [Bands(sources=count), Bands(sources=3)]
    for downsample in ("nearest", "area"):
        labels = {"name": "transmix", "source": "energy", "r": 0.25, "downsample": downsample}
        step = step_of(mixers, labels=labels)
        mix, targets = step.mix_batch(mixcore.types.Batch(images=IMAGES, labels=LABELS), mixer=0)
        energy = step.model.stage2(step.model.stage1(mix.images)).detach().square().sum(1)
        masks = mix.masks_on(16, 16).unflatten(3, (4, 4)).unflatten(2, (4, 4))
        masks = masks[:, :, :, 0, :, 0] if downsample == "nearest" else masks.mean((3, 5))
        attended = (masks * energy[:, None]).sum((2, 3)) / energy.sum((1, 2))[:, None]
        wanted = 0.25 * columns_of(mix) / 16 + 0.75 * attended
        torch.testing.assert_close(targets.weights, wanted, rtol=1e-4, atol=1e-4)


def compute(loss: dict[str, Any], logits: Tensor, sources: Tensor, weights: Tensor, labels: Tensor) -> Tensor:
    owner = build_method_plugins(mix="none", labels="weights", loss=loss).loss
    kind: LabelKind = "value" if labels.is_floating_point() else "class"
    task = Task(
        num_classes=CLASSES, in_channels=3, image_size=(16, 16), mean=(0.0,) * 3, std=(1.0,) * 3, label_kind=kind
    )
    targets = Targets(labels=labels, sources=sources, weights=weights)
    return owner.compute_loss(logits=logits, targets=targets, modules={}, task=task, step=None)


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: "-".join(map(str, loss.values())))
def test_losses_take_sources_in_any_number_and_order(loss: dict[str, Any]) -> None:
    """A source without weight changes nothing, nor does a source that is told in two halves, nor their order."""
    rng = torch.Generator().manual_seed(3)
    logits = torch.randn(6, CLASSES, generator=rng) * 3
    sources = (torch.arange(6)[:, None] + torch.tensor([0, 2, 3])) % 6
    weights = torch.rand(6, 3, generator=rng).softmax(1)
    labels = torch.randn(6, CLASSES, generator=rng) if loss["name"] == "mse" else LABELS
    found = compute(loss, logits, sources, weights, labels)
    turned = compute(loss, logits, sources.roll(1, 1), weights.roll(1, 1), labels)
    torch.testing.assert_close(turned, found)
    idle = torch.cat((sources, (sources[:, :1] + 1) % 6), 1), torch.cat((weights, torch.zeros(6, 1)), 1)
    torch.testing.assert_close(compute(loss, logits, *idle, labels), found)
    if loss["name"] != "decouplemix_bce":  # it rescales the weight of each source, before those of a class are added
        halves = torch.cat((sources, sources), 1), torch.cat((weights, weights), 1) / 2
        torch.testing.assert_close(compute(loss, logits, *halves, labels), found)
    alone = compute(loss, logits, sources[:, :1], torch.ones(6, 1), labels)
    both = torch.cat((torch.ones(6, 1), torch.zeros(6, 1)), 1)
    torch.testing.assert_close(compute(loss, logits, sources[:, :2], both, labels), alone)


def test_groups_of_one_of_three_and_of_four_sources_are_one_batch() -> None:
    @attrs.define(eq=False, kw_only=True)
    class Turns(Bands):
        @hookimpl
        def generate_mix(self, images: Tensor, step: Any, rng: torch.Generator) -> Mix:
            one = attrs.evolve(self, sources=COUNTS[step.group % 3])
            return Bands.generate_mix(one, images, rng)

    mixer = mixcore.create_mixer(Turns(), num_classes=CLASSES, group_size=2)
    mix = mixer(IMAGES, LABELS)
    assert mix.sources.shape == (6, 4)
    assert torch.equal(mix.weights[:2], torch.tensor([[1.0, 0, 0, 0]] * 2))
    shown = (mix.masks_on(16, 16)[:, :, None] * IMAGES[mix.sources]).sum(1)
    torch.testing.assert_close(shown, mix.images)
    torch.testing.assert_close(mix.masks_on(16, 16).mean((2, 3)), mix.weights)


@pytest.mark.parametrize(
    ("count", "masked"), [(4, True), *(pytest.param(*one, marks=pytest.mark.slow) for one in ((1, True), (3, False)))]
)
def test_a_mixer_of_any_number_keeps_the_contract(count: int, masked: bool) -> None:
    for name, check in checks_of("mix").items():
        if name != "two_processes":
            try:
                check(Harness(Subject(plugin=Bands, options={"sources": count, "masked": masked})))
            except NotApplicableError:
                continue


class WeighsAnother(Bands):
    """The weights of three sources stand one place further than their pixels."""

    @hookimpl
    def generate_mix(self, images: Tensor, rng: torch.Generator) -> Mix:
        mix = Bands.generate_mix(self, images, rng)
        return attrs.evolve(mix, weights=mix.weights.roll(1, 1), masks=None)


class Moves(Bands):
    """The image itself stays where it is, the others are turned around."""

    contract = {"partner_pixels": False}

    @hookimpl
    def generate_mix(self, images: Tensor, rng: torch.Generator) -> Mix:
        mix = Bands.generate_mix(self, images, rng)
        masks = mix.masks_on(*images.shape[-2:])
        own, others = images[mix.sources[:, 0]], images.flip(2)[mix.sources[:, 1:]]
        mixed = (masks[:, :1] * own) + (masks[:, 1:, None] * others).sum(1)
        return attrs.evolve(mix, images=mixed)


def test_the_contract_sees_every_source() -> None:
    checks = checks_of("mix")
    with pytest.raises(AssertionError, match="resemble the source with the largest label weight"):
        checks["lam_leans_as_pixels_do"](Harness(Subject(plugin=WeighsAnother, options={"masked": False})))
    checks["masks_say_where_pixels_come_from"](Harness(Subject(plugin=Moves, options={"sources": 4})))
    with pytest.raises(AssertionError, match="source 1 has all the weight"):
        checks["masks_say_where_pixels_come_from"](Harness(Subject(plugin=KeepsNothing)))


class KeepsNothing(Bands):
    """Only the image itself may move, and another one does."""

    contract = {"own_pixels": False}

    @hookimpl
    def generate_mix(self, images: Tensor, rng: torch.Generator) -> Mix:
        mix = Bands.generate_mix(self, images, rng)
        second = mix.masks_on(*images.shape[-2:])[:, 1:2] == 1
        return attrs.evolve(mix, images=torch.where(second, mix.images.flip(2), mix.images))


def test_labels_and_losses_of_pairs_only_are_found_out() -> None:
    with pytest.raises(AssertionError, match="sum to"):
        checks_of("labels")["label_weights"](Harness(Subject(plugin=FirstTwo)))
    with pytest.raises(RuntimeError, match=r"size of tensor|must match"):
        checks_of("loss")["any_mix"](Harness(Subject(plugin=OfPairs)))


@attrs.define(eq=False, kw_only=True)
class FirstTwo:
    """A policy that shares the image between the first two sources."""

    role = "labels"

    @hookimpl
    def mix_labels(self, mix: Mix, labels: Tensor) -> Targets:
        weights = torch.zeros_like(mix.weights)
        weights[:, 0], weights[:, -1] = mix.weights[:, 0], mix.weights[:, 1]
        return mix.targets(labels, weights)


@attrs.define(eq=False, kw_only=True)
class OfPairs:
    """A loss that multiplies with two weights."""

    role = "loss"
    accepts = frozenset({"class"})

    @hookimpl
    def compute_loss(self, logits: Tensor, targets: Targets) -> Tensor:
        own, other = (F.cross_entropy(logits, targets.labels[targets.sources[:, k]], reduction="none") for k in (0, -1))
        return (targets.weights * torch.stack((own, other), 1)).sum(1).mean()


def test_a_preview_of_more_than_a_pair_is_refused_in_words() -> None:
    class Previewed(Bands):
        @hookimpl
        def preview_mix(self, images: Tensor) -> Mix:
            return Bands.generate_mix(self, images, torch.Generator().manual_seed(0))

    step = step_of([Previewed()])
    with pytest.raises(HookError, match=r"preview_mix of .* gave a mix of 3 sources per image; expected 2"):
        step.previews(mixcore.types.Batch(images=IMAGES, labels=LABELS), (0.5,))


def test_as_backbone_and_other_networks_train_on_three_sources() -> None:
    torch.manual_seed(0)
    plain = torchvision.models.resnet18(num_classes=CLASSES)
    wrapped = mixcore.as_backbone(plain, features="layer4", classifier="fc", image_size=(16, 16))
    losses = [step_of([Bands()], model=model, loss="decouplemix")(IMAGES, LABELS)[0] for model in (plain, wrapped)]
    assert torch.isfinite(losses[0])
    torch.testing.assert_close(losses[0], losses[1])


@pytest.fixture
def banded(toy_config: Path, install: Callable[..., None]) -> Path:
    entries = {"bands": "mixcore.testing.fakes:Bands"}
    install(entries, distribution="fake-bands")
    tables = "".join(f'[[mix]]\nname = "bands"\nsources = {count}\n' for count in COUNTS)
    toy_config.write_text(toy_config.read_text().replace('[mix]\nname = "toy_mix"\n', tables))
    return toy_config


def test_a_run_records_pictures_and_is_opened_again(banded: Path, toy_run: Callable[..., Path]) -> None:
    from mixcore.cli.main import main

    only = ("mix=[{name='bands', sources=4}]", "labels.name=area", "schedule.epochs=1", "train.ema_decay=0.5")
    folder = toy_run(*only)
    record = json.loads((folder / "metrics.jsonl").read_text().splitlines()[0])
    assert 2 < record["mix/sources"] < 4
    assert 0 < record["mix/lam"] < 0.5
    events = EventAccumulator(str(folder), size_guidance={"tensors": 0}).Reload()
    assert "mix/images" in events.Tags()["images"]
    assert events.Scalars("mix/sources")[0].value == pytest.approx(record["mix/sources"])
    scores = mixcore.load_run(folder, checkpoint="last").evaluate()
    assert scores["ema"]["top1"] == record["val/top1/ema"]
    for what, name in ((banded, "all.png"), (folder, "run.png")):
        assert main(["show", str(what), "--out", name]) == 0
        assert Path(name).stat().st_size > 0
    assert main(["eval", str(folder)]) == 0
