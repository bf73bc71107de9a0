"""C-Mixup: the shipped contract, then the law of its partners and the invariants of its specification."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from mixcore_plugin_cmixup import CMixup, pick, probabilities, squared_distances
from scipy.stats import chisquare

import mixcore
from mixcore.testing import MixerContract, TinyConvNet, make_step, run_example

AGES = torch.tensor([[1.0], [2.0], [4.0]])


class TestContract(MixerContract):
    plugin = "cmixup"


@pytest.mark.slow
class TestContractNear(MixerContract):
    plugin = "cmixup"
    left_out = ("two_processes",)
    options = {"alpha": 0.3, "bandwidth": 0.1}


@pytest.mark.gpu
class TestContractOnCuda(MixerContract):
    plugin = "cmixup"
    device = "cuda"


def generate(plugin: CMixup, images: torch.Tensor, labels: torch.Tensor, seed: int = 0, may_overwrite: bool = False):
    rng = torch.Generator().manual_seed(seed)
    return plugin.generate_mix(images=images, labels=labels, step=make_step(may_overwrite=may_overwrite), rng=rng)


def law(values: list[float], bandwidth: float) -> list[list[float]]:
    """The formula of the paper, number by number."""
    weights = [[math.exp(-((a - b) ** 2) / (2 * bandwidth**2)) for b in values] for a in values]
    return [[weight / sum(row) for weight in row] for row in weights]


def test_example_by_hand():
    """Squared distances 1 and 9 of the first age to the others; sigma 1: weights 1, e^-1/2, e^-9/2."""
    distances = squared_distances(AGES)
    assert distances.tolist() == [[0, 1, 9], [1, 0, 4], [9, 4, 0]]
    found = probabilities(distances, 1.0)
    torch.testing.assert_close(found, torch.tensor(law([1, 2, 4], 1.0), dtype=torch.float64))
    assert found[0].tolist() == pytest.approx([0.618184, 0.374948, 0.006867], abs=1e-6)
    assert found.sum(1).tolist() == pytest.approx([1, 1, 1], abs=1e-12)


def test_a_draw_picks_the_column_in_whose_share_it_falls():
    chances = torch.tensor([[0.25, 0.5, 0.25], [0.0, 1.0, 0.0], [0.5, 0.0, 0.5]], dtype=torch.float64)
    largest = 1 - 2.0**-53
    for draws, expected in (
        ([0.0, 0.0, 0.0], [0, 1, 0]),
        ([0.2499, 0.5, 0.4999], [0, 1, 0]),
        ([0.25, 0.9999, 0.5], [1, 1, 2]),
        ([0.75, largest, largest], [2, 1, 2]),
    ):
        assert pick(chances, torch.tensor(draws, dtype=torch.float64)).tolist() == expected


def test_shares_of_a_fine_lattice_of_draws_are_the_probabilities():
    """Exact enumeration: of L draws in the middles of L cells, each column gets its probability times L, within one."""
    cells = 20_000
    chances = probabilities(squared_distances(AGES), 1.7)
    draws = (torch.arange(cells, dtype=torch.float64) + 0.5) / cells
    for row, expected in enumerate(law([1, 2, 4], 1.7)):
        picked = pick(chances[row].expand(cells, -1), draws).bincount(minlength=3)
        assert picked.tolist() == pytest.approx([cells * chance for chance in expected], abs=1)


def test_partners_follow_the_law():
    """Chi-square of each image's partners over 4000 batches: p below 1e-4 is a wrong law."""
    batches, plugin, values = 4000, CMixup(bandwidth=1.5), [0.0, 0.5, 2.0, 2.0, 3.0]
    labels, images = torch.tensor(values)[:, None], torch.zeros(5, 1, 1, 1)
    partners = torch.stack([generate(plugin, images, labels, seed).partner for seed in range(batches)])
    for row, expected in enumerate(law(values, 1.5)):
        seen = partners[:, row].bincount(minlength=5).tolist()
        assert chisquare(seen, [chance * batches for chance in expected]).pvalue > 1e-4


def test_rows_draw_independently():
    """Of two images at one value the partners are equal half of the time."""
    plugin, labels, images = CMixup(), torch.zeros(2, 1), torch.zeros(2, 1, 1, 1)
    same = sum(int(generate(plugin, images, labels, seed).partner.unique().numel() == 1) for seed in range(2000))
    assert same == pytest.approx(1000, abs=110)


def test_a_narrow_band_keeps_to_equal_labels_and_a_wide_one_takes_all_alike():
    labels = torch.tensor([[3.0], [9.0], [3.0], [1e6]])
    narrow = probabilities(squared_distances(labels), 1e-3)
    assert narrow.tolist() == [[0.5, 0, 0.5, 0], [0, 1, 0, 0], [0.5, 0, 0.5, 0], [0, 0, 0, 1]]
    torch.testing.assert_close(
        probabilities(squared_distances(labels), 1e12), torch.full((4, 4), 0.25, dtype=torch.float64)
    )


def test_only_differences_over_the_bandwidth_count():
    labels = torch.tensor([[20.0, 1.0], [25.0, 3.0], [60.0, 0.0]])
    chances = probabilities(squared_distances(labels), 10.0)
    torch.testing.assert_close(probabilities(squared_distances(labels * 4), 40.0), chances)
    torch.testing.assert_close(probabilities(squared_distances(labels + 1e5), 10.0), chances)
    torch.testing.assert_close(squared_distances(labels)[0, 1].item(), 29.0)


def test_class_labels_stand_for_their_one_hot_rows():
    classes = torch.tensor([2, 0, 2, 1])
    rows = torch.nn.functional.one_hot(classes, 3).float()
    torch.testing.assert_close(squared_distances(classes), squared_distances(rows))


def test_images_and_values_are_blended_by_one_ratio():
    rng = torch.Generator().manual_seed(0)
    images, labels = torch.randn(6, 3, 4, 4, generator=rng), torch.rand(6, 1, generator=rng) * 3
    mix = generate(CMixup(), images, labels, seed=3)
    lam = mix.lam[0].item()
    assert mix.lam.tolist() == [lam] * 6
    torch.testing.assert_close(mix.images, lam * images + (1 - lam) * images[mix.partner])
    expected = lam * labels + (1 - lam) * labels[mix.partner]
    torch.testing.assert_close(mix.targets(labels).dense(1), expected)
    assert not torch.equal(mix.partner, torch.arange(6))


def test_overwriting_gives_the_same_bits_in_the_batch_itself():
    images, labels = torch.randn(6, 3, 8, 8), torch.rand(6, 1)
    kept = generate(CMixup(), images.clone(), labels)
    mix = generate(CMixup(), images, labels, may_overwrite=True)
    assert mix.images is images
    assert torch.equal(images, kept.images)


def test_alpha_zero_leaves_the_batch():
    images = torch.randn(4, 3, 4, 4)
    assert generate(CMixup(alpha=0.0), images, torch.rand(4, 1)).images is images


def test_values_train_in_a_loop_of_ones_own():
    torch.manual_seed(0)
    step = mixcore.create_step(
        TinyConvNet(1), mix="cmixup", loss="huber", num_classes=1, iterations=4, image_size=(8, 8), label_kind="value"
    )
    loss, report = step(torch.randn(8, 3, 8, 8), torch.rand(8, 1))
    loss.backward()
    assert loss.isfinite()
    assert report.mix.weights.shape == (8, 2)


@pytest.mark.parametrize(
    "options", [{"alpha": -0.1}, {"alpha": float("inf")}, {"bandwidth": 0.0}, {"bandwidth": float("inf")}]
)
def test_options_out_of_range_are_refused(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        CMixup(**options)


def test_the_example_of_the_readme_runs():
    names = run_example(Path(__file__).parents[1] / "README.md")
    assert names["ages"].shape == (8, 1)
    assert names["mixed"].shape == (8, 1)
