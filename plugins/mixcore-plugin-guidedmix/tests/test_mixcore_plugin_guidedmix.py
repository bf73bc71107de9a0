"""GuidedMixup: the shipped contract, then the examples and invariants of its specification."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch
from mixcore_plugin_guidedmix import GuidedMix, greedy_cycle, guided_masks, guidedmix, map_distances, saliency_shares

import mixcore
from mixcore.api import gaussian_blur
from mixcore.testing import MixerContract, TinyConvNet, run_example


class TestContract(MixerContract):
    plugin = "guidedmix"


@pytest.mark.gpu
class TestContractOnCuda(MixerContract):
    plugin = "guidedmix"
    device = "cuda"


@pytest.mark.slow
class TestContractByGradients(MixerContract):
    plugin = "guidedmix"
    options = {"saliency": "input_grad", "clean_lam": 1.0, "distance": "cosine", "prob": 1.0}


@pytest.mark.slow
class TestContractAtRandom(MixerContract):
    plugin = "guidedmix"
    options = {"saliency": "feature", "pairing": "random", "prob": 1.0, "blur": [3, 1.0]}
    left_out = ("two_processes",)


# --- the examples ----------------------------------------------------------------------------------------------------

SWAPPED = torch.tensor([1, 0])


def test_each_pixel_in_proportion():
    shares = torch.tensor([[[1.0, 3], [2, 2]], [[3, 1], [2, 2]]]) / 8
    masks = guided_masks(shares, SWAPPED)
    torch.testing.assert_close(masks[0, 0], torch.tensor([[0.25, 0.75], [0.5, 0.5]]))
    mix = guidedmix(torch.randn(2, 3, 2, 2), SWAPPED, shares)
    assert mix.lam.tolist() == pytest.approx([0.5, 0.5])


def test_one_salient_pixel_against_an_even_map():
    shares = torch.tensor([[[1.0, 0], [0, 0]], [[0.25, 0.25], [0.25, 0.25]]])
    images = torch.cat((torch.full((1, 3, 2, 2), 10.0), torch.zeros(1, 3, 2, 2)))
    mix = guidedmix(images, SWAPPED, shares)
    torch.testing.assert_close(mix.mask[0, 0], torch.tensor([[0.8, 0], [0, 0]]))
    assert mix.lam[0].item() == pytest.approx(0.2)
    torch.testing.assert_close(mix.images[0], torch.tensor([[8.0, 0], [0, 0]]).expand(3, 2, 2))


CYCLES = [
    ([[0, 1, 5, 2], [1, 0, 3, 6], [5, 3, 0, 4], [2, 6, 4, 0]], [1, 3, 0, 2]),
    ([[0, 7], [7, 0]], [1, 0]),
    ([[0, 2, 1], [2, 0, 3], [1, 3, 0]], [1, 2, 0]),
    ([[0]], [0]),
]


@pytest.mark.parametrize(("distances", "partner"), CYCLES)
def test_greedy_partners(distances, partner):
    assert greedy_cycle(torch.tensor(distances, dtype=torch.float32)).tolist() == partner


# --- invariants ------------------------------------------------------------------------------------------------------


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def some_shares(count=7, height=9, width=12, seed=0):
    return saliency_shares(torch.rand(count, height, width, generator=seeded(seed)) ** 4, height, width, 3, 1.0)


def greedy_by_hand(distances):
    """The rule in plain Python."""
    count, partner = len(distances), {}
    pairs = [(i, j) for i in range(count) for j in range(count) if i != j]
    first, column = max(pairs, key=lambda pair: distances[pair[0]][pair[1]])  # the first of several
    partner[first], forbidden = column, {first}
    for _ in range(count - 2):
        row = column
        column = max((j for j in range(count) if j != row and j not in forbidden), key=lambda j: distances[row][j])
        partner[row] = column
        forbidden.add(row)
    partner[column] = first
    return [partner[row] for row in range(count)]


@pytest.mark.parametrize("count", [2, 3, 8, 31])
@pytest.mark.parametrize("levels", [3, 1000])
def test_the_cycle_is_that_of_the_rule_and_goes_through_all(count, levels):
    distances = torch.randint(1, levels, (count, count), generator=seeded(count)).float()
    partner = greedy_cycle(distances + distances.T)
    assert partner.tolist() == greedy_by_hand((distances + distances.T).tolist())
    place, steps = int(partner[0]), 1
    while place:
        place, steps = int(partner[place]), steps + 1
    assert steps == count, "a single cycle"


def test_distances_that_are_no_numbers_still_give_a_cycle():
    for fill in (0.0, torch.nan, torch.inf):
        partner = greedy_cycle(torch.full((6, 6), fill))
        assert sorted(partner.tolist()) == list(range(6))
        assert (partner != torch.arange(6)).all()


@pytest.mark.parametrize("count", [7, 40])
def test_distances_are_those_of_their_names(count):
    maps = some_shares(count)
    first, second = maps.double().flatten(1)[:, None], maps.double().flatten(1)[None]
    expected = {
        "l2": (first - second).square().sum(2).sqrt(),
        "l1": (first - second).abs().sum(2),
        "cosine": 1 - torch.cosine_similarity(first, second, dim=2),
    }
    for name, values in expected.items():
        found = map_distances(maps, name).double()
        torch.testing.assert_close(found.fill_diagonal_(0), values.fill_diagonal_(0), rtol=1e-3, atol=1e-5)


def test_the_first_link_is_between_the_two_maps_farthest_apart():
    maps = some_shares(30)
    distances = map_distances(maps)
    largest = int(distances.fill_diagonal_(0).argmax())
    assert greedy_cycle(distances)[largest // 30] == largest % 30


def test_the_scale_of_saliency_does_not_matter():
    saliency = torch.rand(12, 6, 6, generator=seeded())
    one, other = (saliency_shares(scale * saliency, 12, 12) for scale in (1.0, 1e-6))
    torch.testing.assert_close(one, other)
    assert torch.equal(greedy_cycle(map_distances(one)), greedy_cycle(map_distances(other)))


def test_shares_are_smoothed_and_sum_to_one():
    saliency = torch.rand(5, 4, 6, generator=seeded())
    shares = saliency_shares(saliency, 8, 12, 5, 2.0)
    torch.testing.assert_close(shares.sum((1, 2)), torch.ones(5))
    large = torch.nn.functional.interpolate(saliency[:, None], size=(8, 12), mode="bilinear")[:, 0]
    torch.testing.assert_close(shares, gaussian_blur(large, 5, 2.0) / gaussian_blur(large, 5, 2.0).sum((1, 2), True))


@pytest.mark.parametrize("value", [0.0, torch.nan, torch.inf])
def test_without_saliency_nothing_is_salient(value):
    shares = saliency_shares(torch.full((3, 4, 4), value), 8, 8)
    assert (shares == 0).all()
    images = torch.randn(3, 2, 8, 8)
    mix = guidedmix(images, torch.tensor([1, 2, 0]), shares)
    assert (mix.mask == 0.5).all()
    torch.testing.assert_close(mix.images, (images + images[[1, 2, 0]]) / 2)


def test_masks_of_mutual_partners_and_of_equal_maps():
    shares = some_shares(4)
    masks = guided_masks(shares, torch.tensor([1, 0, 3, 2]))
    assert masks.min() >= 0
    assert masks.max() <= 1
    torch.testing.assert_close(masks[::2] + masks[1::2], torch.ones(2, 1, 9, 12))
    assert (guided_masks(shares[:1].expand(4, 9, 12), torch.tensor([1, 2, 3, 0])) == 0.5).all()


def test_a_mixed_pixel_lies_between_its_two():
    images, shares = torch.randn(7, 3, 9, 12, generator=seeded()), some_shares()
    partner = greedy_cycle(map_distances(shares))
    mix = guidedmix(images, partner, shares)
    low, high = torch.minimum(images, images[partner]), torch.maximum(images, images[partner])
    assert ((mix.images >= low) & (mix.images <= high)).all()
    torch.testing.assert_close(mix.lam, mix.mask.mean((1, 2, 3)))
    torch.testing.assert_close(mix.images, mix.mask * images + (1 - mix.mask) * images[partner])


# --- in a loop -------------------------------------------------------------------------------------------------------


def batch(count=8):
    return torch.randn(count, 3, 16, 24, generator=seeded()), torch.randint(5, (count,), generator=seeded(1))


def test_partners_are_salient_elsewhere():
    """Images with one bright block each: greedy pairs see less overlap than random ones."""
    images = 0.05 * torch.randn(12, 3, 32, 32, generator=seeded())
    corners = list(itertools.product((2, 20), (2, 20)))
    for row, image in enumerate(images):
        top, left = corners[row % 4]
        image[:, top : top + 8, left : left + 8] += 2
    labels, kept = torch.zeros(12, dtype=torch.int64), {}
    for pairing in ("greedy", "random"):
        mixer = mixcore.create_mixer("guidedmix", num_classes=5, pairing=pairing, prob=1.0)
        partners = [mixer(images, labels, iteration=iteration).partner for iteration in range(4)]
        kept[pairing] = sum(int((partner % 4 == torch.arange(12) % 4).sum()) for partner in partners)
    assert kept["greedy"] == 0
    assert kept["random"] > 4


def test_the_default_looks_at_no_network_and_draws_no_partner():
    images, labels = batch()
    mixer = mixcore.create_mixer("guidedmix", num_classes=5, prob=1.0)
    first, second = (mixer(images, labels, iteration=iteration) for iteration in (0, 5))
    assert torch.equal(first.images, second.images)
    assert not torch.equal(first.images, images)


@pytest.mark.parametrize(("saliency", "chance"), [("spectral_residual", 0.5), ("input_grad", 0.8), ("uniform", 0.5)])
def test_how_often_batches_are_mixed_by_default(saliency, chance):
    mixer = mixcore.create_mixer("guidedmix", num_classes=5, model=TinyConvNet(5), saliency=saliency)
    images, labels = batch(2)
    mixed = sum(mixer(images, labels, iteration=iteration).mask.numel() > 2 for iteration in range(200))
    assert mixed == pytest.approx(200 * chance, abs=30)


def test_the_scale_of_the_loss_does_not_matter():
    images, labels = batch()
    torch.manual_seed(0)
    model = TinyConvNet(5)
    mix = mixcore.create_mixer("guidedmix", num_classes=5, model=model, saliency="input_grad", prob=1.0)(images, labels)
    leaf = images.clone().requires_grad_()
    loss = 40 * torch.nn.functional.cross_entropy(model.eval()(leaf), labels)
    (gradient,) = torch.autograd.grad(loss, leaf)
    shares = saliency_shares(gradient.square().mean(1).sqrt(), 16, 24)
    torch.testing.assert_close(mix.mask, guided_masks(shares, mix.partner))


@pytest.mark.parametrize("train", [False, True])
def test_looking_for_gradients_leaves_the_network(train):
    model = TinyConvNet(5)
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, 0.5)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    saliency = {"name": "input_grad", "train": train}
    mixer = mixcore.create_mixer("guidedmix", num_classes=5, model=model, saliency=saliency, prob=1.0)
    mixer(*batch())
    moved = [name for name, value in model.state_dict().items() if not torch.equal(value, before[name])]
    assert bool(moved) is train
    assert all(module.training for module in model.modules())
    assert all((parameter.grad == 0.5).all() for parameter in model.parameters())


def test_the_clean_term_is_the_loss_of_the_unmixed_batch():
    torch.manual_seed(0)
    model = TinyConvNet(5)
    images, labels = batch()
    mix = {"name": "guidedmix", "saliency": "input_grad", "clean_lam": 0.5, "prob": 1.0}
    step = mixcore.create_step(model, mix=mix, num_classes=5, iterations=10)
    loss, report = step(images, labels)
    with torch.no_grad():
        clean = torch.nn.functional.cross_entropy(model(images), labels)
    torch.testing.assert_close(report.losses["guidedmix/clean"], 0.5 * clean)
    torch.testing.assert_close(loss, report.losses["mix"] + 0.5 * clean)


# --- refusals --------------------------------------------------------------------------------------------------------


OUT_OF_RANGE = [
    *({"prob": 1.5}, {"blur": (6, 3.0)}, {"blur": (7, 0.0)}, {"pairing": "far"}),
    *({"distance": "l3"}, {"clean_lam": -1.0}),
]


@pytest.mark.parametrize("options", OUT_OF_RANGE)
def test_options_out_of_range_are_refused(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        GuidedMix(**options)


def test_a_clean_term_needs_the_gradient():
    with pytest.raises(ValueError, match=r'found saliency = .spectral_residual.; set it to "input_grad"'):
        GuidedMix(clean_lam=1.0)


def test_the_example_of_the_readme_runs():
    names = run_example(Path(__file__).parents[1] / "README.md")
    assert names["targets"].shape == (8, 100)
    torch.testing.assert_close(names["targets"].sum(1), torch.ones(8))
