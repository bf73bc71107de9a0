"""MixPro: the shipped contract for both entry points, then the examples and invariants of its specification."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from mixcore_plugin_mixpro import (
    MixPro,
    MixProLabels,
    cell_side,
    cells_by_draw,
    cells_on_units,
    maskmix,
    similarity,
)
from torch.nn import functional as F

from mixcore.api import Attention, ConfigError, ForwardOutput, Mix, Targets, Task, attention_of
from mixcore.mixers import create_mixer, create_step
from mixcore.testing import MixerContract, PluginContract, TinyConvNet, Tripwire, run_example, tiny_vit


class TestContract(MixerContract):
    plugin = "mixpro"


@pytest.mark.slow
class TestContractUnevenCells(MixerContract):
    plugin = "mixpro"
    options = {"switch_prob": 1.0, "cell": 7, "area": "cells"}
    image_size = (20, 26)
    left_out = ("two_processes",)


@pytest.mark.gpu
class TestContractOnCuda(MixerContract):
    plugin = "mixpro"
    device = "cuda"
    left_out = ("two_processes",)


class TestLabelsContract(PluginContract):
    role = "labels"
    plugin = "mixpro_labels"


@pytest.mark.slow
class TestLabelsContractEnergy(PluginContract):
    role = "labels"
    plugin = "mixpro_labels"
    options = {"source": "energy", "grad_through_sim": True}


@pytest.mark.gpu
class TestLabelsContractOnCuda(PluginContract):
    role = "labels"
    plugin = "mixpro_labels"
    device = "cuda"


# --- cells -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("patch", "size", "side"),
    [
        (16, (224, 224), 64),
        (14, (224, 224), 56),
        (None, (224, 224), 56),
        (32, (224, 224), 64),
        (4, (32, 32), 8),
        (8, (32, 48), 8),
        (1, (3, 3), 1),
    ],
)
def test_a_quarter_of_the_image_in_whole_patches(patch, size, side):
    assert cell_side(None, patch, *size) == side


def test_cells_that_cut_patches_are_refused():
    """As the authors' own 56 pixels would with patches of 16."""
    with pytest.raises(ConfigError, match=r"cell = 56 cuts .* 16x16 pixels.* such as cell = 64"):
        cell_side(56, 16, 224, 224)
    assert cell_side(56, 14, 224, 224) == cell_side(56, None, 224, 224) == 56
    with pytest.raises(ConfigError, match="nothing is mixed"):
        cell_side(32, 8, 32, 32)
    with pytest.raises(ConfigError, match="nothing is mixed"):
        cell_side(None, 32, 32, 32)


def test_exactly_as_many_cells_in_every_image_and_others_in_each():
    draws = torch.rand(50, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for count in range(17):
        cells = cells_by_draw(draws, count, 4, 4)
        assert cells.shape == (50, 4, 4)
        assert cells.sum((1, 2)).tolist() == [count] * 50
    assert len({tuple(image.flatten().tolist()) for image in cells_by_draw(draws, 5, 4, 4)}) > 45
    often = cells_by_draw(torch.rand(4000, 6, generator=torch.Generator().manual_seed(1)), 2, 2, 3).float().mean(0)
    assert (often - 1 / 3).abs().max() < 0.03, "every cell is as likely"


def test_cells_cut_by_the_edge_stand_on_a_grid_that_is_exact():
    cells = torch.rand(3, 4, 4, generator=torch.Generator().manual_seed(0)) > 0.5
    units = cells_on_units(cells, 64, 224, 224)
    assert units.shape == (3, 7, 7)
    pixels = cells.repeat_interleave(64, 1).repeat_interleave(64, 2)[:, :224, :224]
    assert torch.equal(units.repeat_interleave(32, 1).repeat_interleave(32, 2), pixels)
    assert torch.equal(cells_on_units(cells, 56, 224, 224), cells), "a grid that fits stays a grid"
    uneven = cells_on_units(cells[:, :2], 12, 20, 45)
    assert uneven.shape == (3, 5, 15)
    expected = cells[:, :2].repeat_interleave(12, 1).repeat_interleave(12, 2)[:, :20, :45]
    assert torch.equal(uneven.repeat_interleave(4, 1).repeat_interleave(3, 2), expected)


@pytest.mark.parametrize(("cell", "area"), [(0, 0.0816), (3, 0.0408), (15, 0.0204)])
def test_the_edge_s_cells_are_smaller(cell, area):
    cells = (torch.arange(16) == cell).view(1, 4, 4)
    images = torch.randn(1, 3, 224, 224)
    assert maskmix(images, torch.zeros(1, dtype=torch.int64), cells, 64).lam.item() == pytest.approx(area, abs=1e-4)
    counted = maskmix(images, torch.zeros(1, dtype=torch.int64), cells, 64, "cells")
    assert counted.lam.item() == pytest.approx(1 / 16)


@pytest.mark.parametrize(("side", "size"), [(8, (32, 32)), (8, (28, 36)), (5, (13, 21))])
def test_each_image_in_its_own_cells(side, size):
    images, partner = torch.randn(6, 3, *size), torch.randperm(6, generator=torch.Generator().manual_seed(3))
    images[0, 0, 0, 0] = torch.nan
    rows, columns = -(-size[0] // side), -(-size[1] // side)
    cells = torch.rand(6, rows, columns, generator=torch.Generator().manual_seed(0)) > 0.4
    mix = maskmix(images, partner, cells, side)
    own = cells.repeat_interleave(side, 1).repeat_interleave(side, 2)[:, None, : size[0], : size[1]]
    expected = torch.where(own, images, images[partner])
    torch.testing.assert_close(mix.images, expected, rtol=0, atol=0, equal_nan=True)
    assert torch.equal(mix.masks_on(*size)[:, :1], own.float())
    torch.testing.assert_close(mix.lam, own.float().mean((1, 2, 3)))
    if size == (32, 32):
        assert mix.masks.shape == (6, 1, 4, 4)


# --- the mixer -------------------------------------------------------------------------------------------------------


def batch(count=6, size=(16, 16)):
    return torch.randn(count, 3, *size, generator=torch.Generator().manual_seed(2)), torch.arange(count) % 5


def mixes(count, images, **options):
    mixer = create_mixer("mixpro", num_classes=5, model=TinyConvNet(5), seed=3, **options)
    labels = torch.arange(len(images)) % 5
    return [mixer(images, labels, iteration=i) for i in range(count)]


@pytest.mark.parametrize(
    ("beta", "count", "lam"),
    [(0.3, 5, 0.3125), (0.5, 8, 0.5), (0.0625, 1, 0.0625), (0.99, 16, 1.0), (0.001, 1, 0.0625)],
)
def test_one_share_of_cells_for_the_batch(monkeypatch, beta, count, lam):
    monkeypatch.setattr("mixcore_plugin_mixpro.mixpro.beta", lambda alpha, rng: beta)
    (mix,) = mixes(1, batch()[0], switch_prob=1.0)
    assert mix.masks.shape == (6, 1, 4, 4)
    assert mix.masks.sum((1, 2, 3)).tolist() == [count] * 6
    assert mix.lam.tolist() == [lam] * 6


def test_a_share_of_nothing_keeps_a_cell(monkeypatch):
    monkeypatch.setattr("mixcore_plugin_mixpro.mixpro.beta", lambda alpha, rng: 0.0)
    (mix,) = mixes(1, batch()[0], switch_prob=1.0)
    assert mix.masks.sum((1, 2, 3)).tolist() == [1] * 6


def test_half_of_the_batches_are_mixup_s_or_cutmix_s():
    images, _ = batch()
    found = mixes(240, images)
    cells = [mix for mix in found if not mix.notes]
    others = [mix for mix in found if mix.notes]
    assert 90 < len(cells) < 150
    assert all(mix.masks.shape == (6, 1, 4, 4) for mix in cells)
    assert all(mix.partner.tolist() == [5, 4, 3, 2, 1, 0] for mix in others)
    assert len({tuple(mix.partner.tolist()) for mix in cells}) > 60, "a permutation for each batch"
    boxes = [mix for mix in others if mix.masks.shape[-1] == 16]
    assert 0.3 < len(boxes) / len(others) < 0.7
    assert not [mix for mix in mixes(40, images, cutmix_alpha=0.0) if mix.masks.shape[-1] == 16]
    assert not [mix for mix in mixes(40, images, switch_prob=1.0) if mix.notes]
    shares = torch.stack([mix.lam[0] for mix in cells])
    assert shares.std() > 0.2
    assert torch.stack([mix.lam[0] for mix in mixes(60, images, switch_prob=1.0, alpha=50.0)]).std() < 0.1


def test_all_groups_of_a_batch_take_the_same_turn():
    images, labels = batch(8)
    step = create_step(
        tiny_vit(5, (16, 16)),
        mix={"name": "mixpro", "group_size": 4},
        num_classes=5,
        iterations=50,
        image_size=(16, 16),
        seed=1,
    )
    turns = set()
    for iteration in range(12):
        _, report = step(images, labels, iteration=iteration)
        turns.add(bool(report.mix.notes))
    assert turns == {True, False}


# --- label weights ---------------------------------------------------------------------------------------------------


def test_the_first_example():
    sim = similarity(torch.tensor([[0.6, 0.3, 0.05, 0.05]]), torch.tensor([[0.5, 0.2, 0.2, 0.1]]).log())
    assert sim.item() == pytest.approx(0.9534241)
    assert torch.lerp(torch.tensor([0.5]), torch.tensor([0.8]), sim).item() == pytest.approx(0.7860272)


def test_how_alike_prediction_and_labels_can_be():
    one_hot = F.one_hot(torch.tensor([3]), 100).float()
    assert similarity(one_hot, torch.zeros(1, 100)).item() == pytest.approx(0.1)
    assert similarity(one_hot, 100 * one_hot).item() == pytest.approx(1)
    rows = torch.rand(50, 7, generator=torch.Generator().manual_seed(0)).softmax(1)
    found = similarity(rows, torch.randn(50, 7, generator=torch.Generator().manual_seed(1)))
    assert ((found > 0) & (found <= 1)).all()


def attending(share, grid):
    """Attention of a class token, of which `share` falls on the first 10 cells of `grid`, evenly."""
    weights = torch.where(torch.arange(grid**2) < 10, share / 10, (1 - share) / (grid**2 - 10))
    logits = torch.cat((torch.tensor([0.3]), weights)).log()
    queries = torch.ones(1, 1, grid**2 + 1, 1)
    return Attention(queries, logits[None, None, :, None], 1.0, prefix=1)


def labelled(logits, share, count=10, **options):
    """What the policy makes of an image that keeps the first `count` of 16 cells, of classes 0 and 1 of 4."""
    own = (torch.arange(16) < count).float().view(1, 1, 4, 4)
    mix = Mix.pair(torch.zeros(1, 3, 16, 16), torch.tensor([1]), own.mean((1, 2, 3)), own)
    output = ForwardOutput(logits=logits, attention=(attending(share, 4),))
    told = {"mix": mix, "labels": torch.tensor([0, 1]), "output": output, "task": TASK}
    return MixProLabels(**options), told


TASK = Task(num_classes=4, in_channels=3, image_size=(16, 16), mean=(0.0,) * 3, std=(1.0,) * 3)
LOGITS = torch.tensor([[2.0, 1.0, 0.0, 0.0]])


def test_the_second_example():
    policy, told = labelled(LOGITS, 0.8)
    targets = policy.mix_labels(**told)
    plain = told["mix"].targets(told["labels"])
    assert plain.dense(4, 0.1)[0].tolist() == pytest.approx([0.5875, 0.3625, 0.025, 0.025])
    assert similarity(plain.dense(4, 0.1), LOGITS).item() == pytest.approx(0.9723443)
    assert targets.weights[0].tolist() == pytest.approx([0.7951602, 1 - 0.7951602])
    assert not targets.smooth
    assert labelled(LOGITS, 0.8, smooth_loss=True)[0].mix_labels(**told).smooth


def test_smoothing_is_of_the_comparison_alone():
    policy, told = labelled(LOGITS, 0.8, smoothing=0.0)
    sim = F.cosine_similarity(torch.tensor([[0.625, 0.375, 0, 0]]), LOGITS.softmax(1)).item()
    assert policy.mix_labels(**told).weights[0, 0].item() == pytest.approx(0.625 + sim * 0.175)
    assert torch.equal(policy.mix_labels(**told).dense(4, 0.1), policy.mix_labels(**told).dense(4))


@pytest.mark.parametrize("share", [0.1, 0.625, 0.95])
def test_between_area_and_attention(share):
    """Nearer to the attention the more the prediction resembles the labels."""
    area = 0.625
    right = torch.tensor([[0.5875, 0.3625, 0.025, 0.025]]).log()
    wrong = torch.tensor([[0.0, 0.0, 40.0, 0.0]])
    by_sim = [labelled(logits, share) for logits in (right, LOGITS, wrong)]
    sure, middle, unsure = (policy.mix_labels(**told).weights[0, 0].item() for policy, told in by_sim)
    assert sure == pytest.approx(share, abs=1e-5), "alike: the attention's"
    assert min(area, share) - 1e-6 <= middle <= max(area, share) + 1e-6
    assert abs(unsure - area) <= 0.05 * abs(share - area) + 1e-6, "nothing alike: the area's"


def test_uniform_attention_over_whole_patches_is_the_area():
    policy, told = labelled(LOGITS, 0.625)
    assert policy.mix_labels(**told).weights[0, 0].item() == pytest.approx(0.625)


def test_no_gradient_unless_asked_and_then_that_of_cross_entropy():
    logits = LOGITS.clone().requires_grad_()
    policy, told = labelled(logits, 0.8)
    assert not policy.mix_labels(**told).weights.requires_grad
    assert policy.extra_losses(**told) == {}

    asking, told = labelled(logits, 0.8, grad_through_sim=True)
    (extra,) = asking.extra_losses(**told).values()
    assert extra.item() == 0
    weights = asking.mix_labels(**told).weights
    loss = -(weights * logits.log_softmax(1)[:, :2]).sum(1).mean() + extra
    (found,) = torch.autograd.grad(loss, logits)

    other = LOGITS.clone().requires_grad_()
    lam = 0.625 + 0.175 * similarity(torch.tensor([[0.5875, 0.3625, 0.025, 0.025]]), other)
    by_hand = -(torch.stack((lam, 1 - lam), 1) * other.log_softmax(1)[:, :2]).sum(1).mean()
    torch.testing.assert_close(found, torch.autograd.grad(by_hand, other)[0])
    soft = {**told, "labels": F.one_hot(told["labels"], 4).float()}
    (same,) = torch.autograd.grad(asking.extra_losses(**soft)["sim"], logits)
    (again,) = torch.autograd.grad(asking.extra_losses(**told)["sim"], logits)
    torch.testing.assert_close(same, again)


# --- whole steps -----------------------------------------------------------------------------------------------------


def step_of(model=None, mix=None, labels=None, size=(16, 16), **more):
    model = tiny_vit(5, size) if model is None else model
    mix = {"name": "mixpro", "switch_prob": 1.0} if mix is None else mix
    return create_step(model, mix=mix, labels=labels, num_classes=5, iterations=50, image_size=size, seed=3, **more)


def test_the_loss_weighs_each_image_and_smooths_nothing():
    torch.manual_seed(0)
    images, labels = batch()
    model = tiny_vit(5, (16, 16))
    torch.nn.init.normal_(model.blocks[-1].attn.qkv.weight)  # as it comes its attention is nearly even
    step = step_of(model, loss={"name": "soft_cross_entropy", "smoothing": 0.1})
    loss, report = step(images, labels, iteration=1)
    output = step._setup.network.forward(report.mix.images, attention=True)
    own = report.mix.masks_on(4, 4)[:, 0]
    seen = attention_of(output, 16, 16)
    by_attention = (seen * own).sum((1, 2)) / seen.sum((1, 2))
    area = report.mix.lam
    partner = labels[report.mix.partner]
    smooth = [0.9 * F.one_hot(one, 5) + 0.02 for one in (labels, partner)]
    target = area[:, None] * smooth[0] + (1 - area)[:, None] * smooth[1]
    sim = F.cosine_similarity(target, output.logits.softmax(1))
    lam = sim * by_attention + (1 - sim) * area
    torch.testing.assert_close(report.targets.weights[:, 0], lam)
    assert (lam - area).abs().max() > 1e-2
    ce = [F.cross_entropy(output.logits, one, reduction="none") for one in (labels, partner)]
    torch.testing.assert_close(loss, (lam * ce[0] + (1 - lam) * ce[1]).mean())
    loss.backward()


def test_a_turn_of_mixup_or_cutmix_keeps_its_weights_and_is_smoothed():
    images, labels = batch()
    step = step_of(mix="mixpro")
    seen = set()
    for iteration in range(16):
        _, report = step(images, labels, iteration=iteration)
        own = torch.equal(report.targets.weights, report.mix.weights)
        turn = "cells" if not report.mix.notes else "box" if report.mix.masks.shape[-1] == 16 else "blend"
        seen.add((turn, own, report.targets.smooth))
    assert seen <= {("cells", False, False), ("cells", True, False), ("box", True, True), ("blend", True, True)}
    assert {("cells", False, False), ("box", True, True), ("blend", True, True)} <= seen


@pytest.mark.parametrize("mix", ["cutmix", {"name": "cutmix", "per_sample": True, "group_size": 2}, ["mixpro", "fmix"]])
@pytest.mark.parametrize("loss", [None, "bce"])
def test_masks_of_any_mixer_with_any_loss_and_nothing_read_on_the_host(mix, loss):
    step = step_of(mix=mix, labels={"name": "mixpro_labels", "grad_through_sim": True}, loss=loss)
    images, labels = batch()
    value, report = step(images.as_subclass(Tripwire), labels.as_subclass(Tripwire), iteration=1)
    value.backward()
    weights = torch.Tensor(report.targets.weights.as_subclass(torch.Tensor))
    torch.testing.assert_close(weights.sum(1), torch.ones(6))


def test_energy_for_networks_without_attention():
    images, labels = batch()
    with pytest.raises(ConfigError) as caught:
        step_of(TinyConvNet(5))
    message = str(caught.value)
    assert "mixpro_labels" in message
    assert "needs attention of the backbone" in message
    assert 'source = "energy"' in message
    assert '[labels] name = "weights"' in message
    step = step_of(TinyConvNet(5), labels={"name": "mixpro_labels", "source": "energy"})
    _, report = step(images, labels, iteration=1)
    assert (report.targets.weights - report.mix.weights).abs().max() > 1e-3
    _, report = step_of(TinyConvNet(5), labels="weights")(images, labels, iteration=1)
    assert report.targets.smooth
    assert torch.equal(report.targets.weights, report.mix.weights)


# --- refusals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"alpha": 0.0}, "alpha"),
        ({"cell": 0}, "cell"),
        ({"area": "pixels"}, "area"),
        ({"switch_prob": 0.0}, "switch_prob"),
        ({"switch_prob": 1.5}, "switch_prob"),
        ({"mixup_alpha": -1.0}, "mixup_alpha"),
        ({"cutmix_alpha": math.inf}, "cutmix_alpha"),
        ({"mixup_alpha": 0.0, "cutmix_alpha": 0.0}, "nothing would be mixed"),
    ],
)
def test_options_out_of_range_are_refused(options, named):
    with pytest.raises(ValueError, match=named):
        MixPro(**options)


@pytest.mark.parametrize("options", [{"source": "teacher"}, {"smoothing": 1.0}])
def test_labels_out_of_range_are_refused(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        MixProLabels(**options)


def test_cells_that_cut_this_network_s_patches_are_refused_before_the_first_batch():
    with pytest.raises(ConfigError, match=r"cell = 6 cuts the network's patches of 4x4"):
        step_of(mix={"name": "mixpro", "cell": 6})
    step_of(TinyConvNet(5), mix={"name": "mixpro", "cell": 6}, labels="weights")


def test_targets_of_a_clean_batch_are_its_own():
    policy, told = labelled(LOGITS, 0.8)
    clean = Mix.clean(torch.zeros(1, 3, 16, 16))
    targets = policy.mix_labels(**{**told, "mix": clean})
    assert isinstance(targets, Targets)
    assert targets.weights is clean.weights


def test_the_example_of_the_readme_runs():
    names = run_example(Path(__file__).parents[1] / "README.md")
    assert names["loss"].isfinite()
    assert names["model"].get_classifier().weight.grad.abs().sum() > 0
