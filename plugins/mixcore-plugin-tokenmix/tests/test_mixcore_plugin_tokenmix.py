"""TokenMix: the shipped contract for both entry points, then the examples and invariants of its specification."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch
from mixcore_plugin_tokenmix import (
    TokenMix,
    TokenMixLabels,
    block_cells,
    content_on_grid,
    content_weights,
    masks_on_grid,
    partner_tokens,
    random_cells,
    tokenmix,
)
from torch.nn import functional as F

from mixcore.api import ConfigError, Mix, Targets, cells_to_pixels
from mixcore.mixers import create_mixer, create_step
from mixcore.testing import MixerContract, PluginContract, TinyConvNet, Tripwire, make_step, run_example, tiny_vit


class TestContract(MixerContract):
    plugin = "tokenmix"


@pytest.mark.gpu
class TestContractOnCuda(MixerContract):
    plugin = "tokenmix"
    device = "cuda"
    left_out = ("two_processes",)


@pytest.mark.slow
class TestContractWholeTokens(MixerContract):
    plugin = "tokenmix"
    options = {"grid": 7, "switch_prob": 1.0, "ratio": "beta"}
    image_size = (14, 21)
    left_out = ("two_processes",)


class TestLabelsContract(PluginContract):
    """By the trained network; no teacher knows every task."""

    role = "labels"
    plugin = "tokenmix_labels"
    options = {"saliency": "feature"}


@pytest.mark.slow
class TestLabelsContractArea(PluginContract):
    role = "labels"
    plugin = "tokenmix_labels"
    options = {"saliency": "uniform", "grid": 8}


@pytest.mark.slow
class TestLabelsContractAttention(PluginContract):
    role = "labels"
    plugin = "tokenmix_labels"
    options = {"saliency": "attention"}


@pytest.mark.gpu
class TestLabelsContractOnCuda(PluginContract):
    role = "labels"
    plugin = "tokenmix_labels"
    options = {"saliency": "feature"}
    device = "cuda"


def draws(seed):
    rng = torch.Generator().manual_seed(seed)
    while True:
        yield tuple(torch.rand(4, generator=rng).tolist())


# --- the mask --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("ratio", "wanted"), [(0.5, 112), (0.0, 196), (1.0, 14), (0.9, 33)])
def test_tokens_of_the_partner(ratio, wanted):
    assert partner_tokens(196, ratio) == wanted
    assert partner_tokens(196, ratio, 14) == wanted


def test_fewer_extra_tokens_on_a_smaller_grid():
    assert partner_tokens(49, 1.0) == round(14 * 49 / 196)
    assert partner_tokens(49, 1.0, 14) == 14
    assert partner_tokens(49, 0.5, 0) == 24
    assert partner_tokens(4, 0.0, 3) == 4


def test_blocks_seldom_fall_short_and_never_go_beyond():
    counts = [int(block_cells(14, 112, 0.3, draws(seed)).sum()) for seed in range(300)]
    assert max(counts) == 112
    assert counts.count(112) > 0.95 * 300, "98.8 % of 3000 draws were measured"
    assert min(counts) >= 90


def rectangle(grid, top, left, height, width):
    cells = torch.zeros(grid, grid, dtype=torch.bool)
    cells[top : top + height, left : left + width] = True
    return cells


def test_a_rectangle_by_its_numbers():
    # area 1 + 0.5 * 15 = 8.5 and aspect 1: 3 x 3 cells, at row int(0.99 * 6) and column 0
    first = (0.5, 0.5, 0.99, 0.0)
    # 7 cells are missing: 1 + 0.999 * 6 of them, 3 x 3 at the other corner would be 9 new ones, and is refused
    refused = (0.999, 0.5, 0.0, 0.99)
    # a cell that is there already is not new
    covered = (0.0, 0.5, 0.99, 0.0)
    found = block_cells(8, 16, 0.3, itertools.chain([first, *[refused] * 5, *[covered] * 5]))
    assert torch.equal(found, rectangle(8, 5, 0, 3, 3))


def test_the_aspect_bounds_a_rectangle():
    # area 12, aspect 1/3: height round(sqrt(4)) = 2, width round(sqrt(36)) = 6
    flat = block_cells(14, 12, 1 / 3, [(1.0, 0.0, 0.0, 0.0)])
    assert torch.equal(flat, rectangle(14, 0, 0, 2, 6)) or torch.equal(flat, rectangle(14, 0, 0, 6, 2))
    other = block_cells(14, 12, 1 / 3, [(1.0, 1.0, 0.0, 0.0)])
    assert torch.equal(other, flat.T)
    # as wide as the grid: refused, all ten times
    assert not block_cells(6, 12, 1 / 3, [(1.0, 1.0, 0.0, 0.0)] * 10).any()


def test_several_rectangles_are_the_rule():
    """One rectangle of 112 cells is full inside its bounding box."""

    def holes(cells):
        rows, columns = cells.any(1).nonzero().flatten(), cells.any(0).nonzero().flatten()
        box = (int(rows[-1] - rows[0]) + 1) * (int(columns[-1] - columns[0]) + 1)
        return box - int(cells.sum())

    assert sum(holes(block_cells(14, 112, 0.3, draws(seed))) > 0 for seed in range(50)) > 40


def test_tokens_anywhere_are_always_as_many():
    found = [random_cells(14, 112, torch.Generator().manual_seed(seed)) for seed in range(20)]
    assert all(int(cells.sum()) == 112 for cells in found)
    assert len({tuple(cells.flatten().tolist()) for cells in found}) == 20


# --- the mixer -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(28, 56), (32, 33), (14, 14), (9, 11)])
def test_the_partner_shows_in_whole_tokens(size):
    images, partner = torch.randn(5, 3, *size), torch.arange(5).flip(0)
    images[0, 0, 0, 0] = torch.nan
    cells = block_cells(14, 112, 0.3, draws(1))
    mix = tokenmix(images, partner, cells)
    own = cells_to_pixels(~cells, *size)
    torch.testing.assert_close(mix.images, torch.where(own, images, images.flip(0)), rtol=0, atol=0, equal_nan=True)
    assert torch.equal(mix.masks_on(*size)[:, 0], own.float().expand(5, *size))
    assert mix.lam.tolist() == pytest.approx([own.float().mean().item()] * 5)
    if size == (28, 56):
        assert mix.masks.shape == (5, 1, 14, 14), "a grid that fits stays a grid"
        assert mix.lam[0].item() == pytest.approx(1 - int(cells.sum()) / 196)


@pytest.mark.parametrize(("cells", "weight"), [(torch.zeros(14, 14).bool(), 1.0), (torch.ones(14, 14).bool(), 0.0)])
def test_none_or_all_of_the_partner(cells, weight):
    images = torch.randn(4, 3, 28, 28)
    mix = tokenmix(images, torch.arange(4).flip(0), cells)
    assert mix.lam.tolist() == [weight] * 4
    assert torch.equal(mix.images, images if weight else images.flip(0))


def generated(count, seed=0, images=None, **options):
    images = torch.randn(4, 3, 28, 28) if images is None else images
    plugin = TokenMix(**options)
    return [
        plugin.generate_mix(images=images, step=make_step(), rng=torch.Generator().manual_seed(seed + i))
        for i in range(count)
    ]


def test_half_of_the_batches_are_mixup_s():
    mixes = generated(200)
    pasted = [mix for mix in mixes if mix.masks.shape[-2:] == (14, 14)]
    blended = [mix for mix in mixes if mix.masks.shape[-2:] == (1, 1)]
    assert len(pasted) + len(blended) == 200
    assert 70 < len(pasted) < 130
    for mix in mixes:
        assert mix.partner.tolist() == [3, 2, 1, 0]
        assert (mix.masks == mix.masks[0]).all(), "one mask for the batch"
    assert all(mix.mask.sum((2, 3)).min() >= 196 - 112 for mix in pasted)
    assert torch.stack([mix.lam for mix in blended]).std() > 0.2


def test_switches_and_masks_by_their_options():
    assert all(mix.masks.shape[-1] == 14 for mix in generated(30, switch_prob=1.0))
    assert 2 <= sum(mix.masks.shape[-1] == 14 for mix in generated(60, switch_prob=0.1)) <= 15
    for mix in generated(10, switch_prob=1.0, mask_type="random", ratio=0.9):
        assert mix.mask[0].sum() == 196 - 33
    for mix in generated(10, switch_prob=1.0, mask_type="random", grid=7, min_tokens=5):
        assert mix.mask[0].sum() == 49 - 24 - 5
    lams = torch.stack([mix.lam[0] for mix in generated(60, switch_prob=1.0, ratio="beta")])
    assert lams.std() > 0.15, "one ratio per batch"
    peaked, spread = (
        torch.stack([mix.lam[0] for mix in generated(80, mixup_alpha=alpha) if mix.masks.shape[-1] == 1]).std()
        for alpha in (50.0, 0.5)
    )
    assert peaked < spread / 3
    images = torch.randn(4, 3, 28, 28)
    (alone,) = generated(1, images=images, prob=0.0)
    assert alone.images is images


def test_the_aspect_is_the_mixer_s():
    def rows_of(aspect):
        (mix,) = generated(1, seed=5, switch_prob=1.0, aspect=aspect, ratio=1.0)
        return mix.mask[0]

    assert not torch.equal(rows_of(0.3), rows_of(1.0))


# --- label weights ---------------------------------------------------------------------------------------------------

CONTENT = torch.tensor([[[0.4, 0.1], [0.3, 0.2]], [[0.1, 0.2], [0.3, 0.4]]])
OWN = 1 - torch.tensor([[0.0, 1.0], [0.0, 1.0]])
SOURCES = torch.tensor([[0, 1]])


def both(own):
    """The masks of an image and of its partner."""
    return torch.stack((own, 1 - own))[None]


def test_each_image_counts_by_its_own_content():
    assert content_weights(CONTENT, both(OWN), SOURCES)[0].tolist() == pytest.approx([0.7, 0.6])
    scaled = CONTENT * torch.tensor([7.0, 0.3])[:, None, None]
    assert content_weights(scaled, both(OWN), SOURCES)[0].tolist() == pytest.approx([0.7, 0.6])
    assert content_weights(CONTENT, both(torch.ones(2, 2)), SOURCES)[0].tolist() == pytest.approx([1, 0])
    assert content_weights(CONTENT, both(torch.zeros(2, 2)), SOURCES)[0].tolist() == pytest.approx([0, 1])


def test_even_content_weighs_areas_and_no_content_nothing():
    masks = both((torch.rand(14, 14, generator=torch.Generator().manual_seed(0)) > 0.6).float())
    even = content_weights(torch.full((2, 14, 14), 0.3), masks, SOURCES)
    torch.testing.assert_close(even, masks.mean((2, 3)))
    torch.testing.assert_close(even.sum(1), torch.ones(1))
    assert content_weights(torch.zeros(2, 14, 14), masks, SOURCES).tolist() == [[0, 0]]


@pytest.mark.parametrize(
    ("weights", "target"),
    [((0.7, 0.6), (0.6625, 0.5725, 0.0325, 0.0325)), ((0.02, 0.6), (0.0335, 0.5555, 0.0155, 0.0155))],
)
def test_smoothed_targets_are_never_negative(weights, target):
    targets = Targets(labels=torch.tensor([0, 1]), sources=SOURCES, weights=torch.tensor([weights]))
    dense = targets.dense(4, smoothing=0.1)[0]
    assert dense.tolist() == pytest.approx(target)
    assert dense.sum().item() == pytest.approx(sum(weights))


def test_masks_come_to_the_grid_by_area():
    masks = torch.rand(3, 1, 32, 18, generator=torch.Generator().manual_seed(0)).round()
    found = masks_on_grid(masks, 14)
    torch.testing.assert_close(found.sum(1), torch.ones(3, 14, 14))
    torch.testing.assert_close(found.mean((2, 3))[:, 0], masks.mean((1, 2, 3)))
    torch.testing.assert_close(masks_on_grid(masks, 2)[:, :1], F.avg_pool2d(masks, (16, 9)))
    fine = masks[..., :4, :4]
    torch.testing.assert_close(masks_on_grid(fine, 8)[:, 0], fine[:, 0].repeat_interleave(2, 1).repeat_interleave(2, 2))
    assert torch.equal(masks_on_grid(fine, 4)[:, :1], fine)


def test_content_comes_to_the_grid():
    content = torch.rand(2, 7, 7, generator=torch.Generator().manual_seed(0))
    enlarged = F.interpolate(content[:, None], size=(14, 14), mode="bilinear", align_corners=False)[:, 0]
    assert torch.equal(content_on_grid(content, 14), enlarged)
    assert torch.equal(content_on_grid(content, 7), content)
    fine = torch.rand(2, 28, 28)
    torch.testing.assert_close(content_on_grid(fine, 14), F.avg_pool2d(fine[:, None], 2)[:, 0])


# --- both together, and either alone ---------------------------------------------------------------------------------


def teacher(classes=5):
    """The same at every call."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        return TinyConvNet(classes)


def step_of(model=None, mix="tokenmix", labels=None, size=(28, 28), **more):
    made = {"name": mix, "switch_prob": 1.0} if mix == "tokenmix" else mix
    model = TinyConvNet(5) if model is None else model
    return create_step(model, mix=made, labels=labels, num_classes=5, iterations=50, image_size=size, **more)


def batch(count=6, size=(28, 28)):
    return torch.randn(count, 3, *size, generator=torch.Generator().manual_seed(2)), torch.arange(count) % 5


def test_weights_are_what_the_teacher_s_probabilities_say():
    images, labels = batch()
    saliency = {"name": "teacher_class_probability", "teacher": teacher()}
    loss, report = step_of(labels={"name": "tokenmix_labels", "saliency": saliency})(images, labels, iteration=1)
    of = teacher().eval()
    probabilities = of.fc(of.forward_features(images).permute(0, 2, 3, 1)).softmax(3).detach()
    content = torch.stack([p[..., label] for p, label in zip(probabilities, labels.tolist(), strict=True)])
    content = F.interpolate(content[:, None], size=(14, 14), mode="bilinear", align_corners=False)[:, 0]
    content = content / content.sum((1, 2), keepdim=True)
    own = report.mix.mask[:, 0]
    expected = torch.stack(((content * own).sum((1, 2)), (content.flip(0) * (1 - own)).sum((1, 2))), 1)
    torch.testing.assert_close(report.targets.weights, expected, rtol=1e-4, atol=1e-5)
    assert (report.targets.weights.sum(1) - 1).abs().max() > 1e-4, "each image is judged by its own map"
    loss.backward()


def test_the_mixer_suggests_its_labels_and_its_loss():
    with pytest.raises(ConfigError) as caught:
        step_of()
    message = str(caught.value)
    assert 'tokenmix_labels refuses these values: saliency = "teacher_class_probability" needs a teacher' in message
    assert 'saliency = "attention" asks the trained network itself' in message
    step = step_of(labels={"name": "tokenmix_labels", "saliency": "feature"})
    images, labels = batch()
    loss, report = step(images, labels, iteration=1)
    logits = step.model(report.mix.images)
    expected = F.binary_cross_entropy_with_logits(logits, report.targets.dense(5).clamp(max=1))
    torch.testing.assert_close(loss, expected)


@pytest.mark.parametrize("labels", ["weights", "area"])
def test_the_mixer_with_other_labels(labels):
    images, classes = batch()
    _, report = step_of(labels=labels)(images, classes, iteration=1)
    torch.testing.assert_close(report.targets.weights, report.mix.weights)
    mix = create_mixer("tokenmix", num_classes=5, switch_prob=1.0)(images, classes)
    torch.testing.assert_close(mix.targets(classes).weights.sum(1), torch.ones(6))


@pytest.mark.parametrize("mix", [{"name": "cutmix", "per_sample": True}, {"name": "cutmix", "group_size": 2}])
@pytest.mark.parametrize("saliency", ["attention", "uniform", "fine_grained"])
def test_the_labels_with_another_mixer(mix, saliency):
    images, labels = batch()
    step = step_of(tiny_vit(5, (28, 28)), mix=mix, labels={"name": "tokenmix_labels", "saliency": saliency})
    loss, report = step(images.as_subclass(Tripwire), labels.as_subclass(Tripwire), iteration=1)
    loss.backward()
    weights = torch.Tensor(report.targets.weights.as_subclass(torch.Tensor))
    plain = torch.Tensor(report.mix.weights.as_subclass(torch.Tensor))
    assert ((weights >= 0) & (weights <= 1)).all()
    assert torch.allclose(weights, plain, atol=1e-5) is (saliency == "uniform")


def test_mixup_and_clean_batches_keep_their_weights():
    policy = TokenMixLabels(saliency="uniform")
    images, labels = batch()
    (blended,) = (mix for mix in generated(1, seed=next(s for s in range(20) if is_mixup(s))))
    for mix in (blended, Mix.clean(images)):
        targets = policy.mix_labels(mix=mix, images=images, labels=labels, probe=None)
        assert targets.weights is mix.weights


def is_mixup(seed):
    return generated(1, seed=seed)[0].masks.shape[-1] == 1


# --- refusals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {"ratio": 1.5},
        {"ratio": "half"},
        {"min_tokens": -1},
        {"mask_type": "blocks"},
        {"grid": 0},
        {"aspect": 0.0},
        {"aspect": 1.5},
        {"prob": 2.0},
        {"switch_prob": 0.0},
        {"mixup_alpha": 0.0},
    ],
)
def test_options_out_of_range_are_refused(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        TokenMix(**options)


def test_labels_out_of_range_are_refused():
    with pytest.raises(ValueError, match="grid"):
        TokenMixLabels(saliency="uniform", grid=0)
    with pytest.raises(ConfigError, match="needs attention of the backbone"):
        step_of(labels={"name": "tokenmix_labels", "saliency": "attention"})
    with pytest.raises(ConfigError, match="needs a mixer that provides mask, and mixup do"):
        step_of(mix="mixup", labels={"name": "tokenmix_labels", "saliency": "uniform"})


def test_the_example_of_the_readme_runs():
    names = run_example(Path(__file__).parents[1] / "README.md")
    assert names["loss"].isfinite()
    assert names["model"].get_classifier().weight.grad.abs().sum() > 0
