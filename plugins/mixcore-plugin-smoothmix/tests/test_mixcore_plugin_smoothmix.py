"""SmoothMix: the shipped contract, then the examples and invariants of its specification."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from mixcore_plugin_smoothmix import SmoothMix, gaussians, smoothmix

from mixcore.api import Mix
from mixcore.mixers import create_step
from mixcore.testing import MixerContract, TinyConvNet, make_step, run_example


class TestContract(MixerContract):
    plugin = "smoothmix"


@pytest.mark.slow
class TestContractPerSample(MixerContract):
    plugin = "smoothmix"
    options = {"per_sample": True}
    left_out = ("two_processes",)


@pytest.mark.slow
class TestContractLabelSwap(MixerContract):
    plugin = "smoothmix"
    options = {"label_swap": True}
    # the swapped labels are what the option is there for
    left_out = ("two_processes", "lam_leans_as_pixels_do")


@pytest.mark.gpu
class TestContractOnCuda(MixerContract):
    plugin = "smoothmix"
    device = "cuda"


@pytest.mark.gpu
class TestContractPerSampleOnCuda(MixerContract):
    plugin = "smoothmix"
    options = {"per_sample": True}
    device = "cuda"
    left_out = ("two_processes",)


def generate(plugin: SmoothMix, images: torch.Tensor, seed: int = 0, may_overwrite: bool = False) -> Mix:
    rng = torch.Generator().manual_seed(seed)
    return plugin.generate_mix(images=images, step=make_step(may_overwrite=may_overwrite), rng=rng)


def bump(shift: tuple[int, int], sigma: float, height: int, width: int) -> torch.Tensor:
    """G [H,W] of one shift and one width."""
    rows, columns = gaussians(torch.tensor([shift]), torch.tensor([sigma]), height, width)
    return torch.outer(rows[0], columns[0])


# --- the examples ----------------------------------------------------------------------------------------------------

OUTER, INNER = [0.1054, 0.2865, 0.2865, 0.1054], [0.2865, 0.7788, 0.7788, 0.2865]
LOW, MIDDLE = [0.4437, 0.3456, 0.2096, 0.0990], [0.7316, 0.5698, 0.3456, 0.1632]
HIGH = [0.9394, 0.7316, 0.4437, 0.2096]
EXAMPLES = [
    ((0, 0), 1.0, [OUTER, INNER, INNER, OUTER], 0.6357),
    ((1, -2), 2.0, [LOW, MIDDLE, HIGH, HIGH], 0.5277),
]


@pytest.mark.parametrize(("shift", "sigma", "rows", "lam"), EXAMPLES)
def test_the_examples(shift, sigma, rows, lam):
    images = torch.stack((torch.zeros(3, 4, 4), torch.ones(3, 4, 4)))
    mix = smoothmix(images, torch.tensor([1, 0]), torch.tensor([shift]), torch.tensor([sigma]))
    expected = torch.tensor(rows)
    torch.testing.assert_close(mix.images[0], expected.expand(3, 4, 4), rtol=0, atol=6e-5)
    torch.testing.assert_close(mix.images[1], 1 - expected.expand(3, 4, 4), rtol=0, atol=6e-5)
    torch.testing.assert_close(mix.mask, 1 - expected.expand(2, 1, 4, 4), rtol=0, atol=6e-5)
    assert mix.lam.tolist() == pytest.approx([lam, lam], abs=6e-5)


def test_a_bump_centred_outside_the_corner():
    found = bump((-2, -2), 1.0, 4, 4)
    assert found[0, 0].item() == pytest.approx(0.7788, abs=5e-5)
    assert found.mean().item() == pytest.approx(0.0982, abs=5e-5)


def test_each_image_has_its_own_bump_and_its_own_label_weight():
    """The two examples in one batch, the second image the first one's partner and the other way round."""
    images = torch.stack((torch.zeros(1, 4, 4), torch.ones(1, 4, 4)))
    mix = smoothmix(images, torch.tensor([1, 0]), torch.tensor([[0, 0], [1, -2]]), torch.tensor([1.0, 2.0]))
    first, second = (torch.tensor(rows) for _, _, rows, _ in EXAMPLES)
    torch.testing.assert_close(mix.images[0, 0], first, rtol=0, atol=6e-5)
    torch.testing.assert_close(mix.images[1, 0], 1 - second, rtol=0, atol=6e-5)
    assert mix.lam.tolist() == pytest.approx([0.6357, 0.5277], abs=6e-5)


@pytest.mark.parametrize(("sigma", "mean"), [(8.0, 0.3579), (16.0, 0.7323)])
def test_the_mean_of_a_centred_bump(sigma, mean):
    assert bump((0, 0), sigma, 32, 32).mean().item() == pytest.approx(mean, abs=5e-5)


# --- invariants ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("height", "width"), [(8, 8), (7, 7), (6, 11)])
def test_the_bump_is_the_formula_of_the_method(height, width):
    shift, sigma = (2, -3), 2.5
    found = bump(shift, sigma, height, width)
    for i in range(height):
        for j in range(width):
            squares = (i - (height - 1) / 2 - shift[0]) ** 2 + (j - (width - 1) / 2 - shift[1]) ** 2
            assert found[i, j].item() == pytest.approx(2.718281828459045 ** (-squares / (2 * sigma**2)), abs=1e-6)


@pytest.mark.parametrize(("height", "width"), [(8, 8), (7, 7), (6, 11)])
def test_a_centred_bump_is_symmetric(height, width):
    found = bump((0, 0), 2.0, height, width)
    torch.testing.assert_close(found, found.flip(0))
    torch.testing.assert_close(found, found.flip(1))
    if height == width:
        torch.testing.assert_close(found, found.t())


@pytest.mark.parametrize("per_sample", [False, True])
def test_lam_is_the_mean_of_the_mask(per_sample):
    for seed in range(20):
        mix = generate(SmoothMix(per_sample=per_sample), torch.randn(6, 3, 16, 16), seed)
        assert mix.mask is not None
        assert mix.lam.dtype == mix.mask.dtype == torch.float32
        torch.testing.assert_close(mix.mask.mean((1, 2, 3)), mix.lam, rtol=0, atol=1e-6)
        assert (mix.mask >= 0).all()
        assert (mix.mask < 1).all()


@pytest.mark.parametrize("per_sample", [False, True])
def test_pixels_are_weighted_by_the_mask(per_sample):
    images = torch.randn(6, 3, 16, 24)
    mix = generate(SmoothMix(per_sample=per_sample), images)
    assert mix.partner.tolist() != [0, 1, 2, 3, 4, 5]
    expected = mix.mask * images + (1 - mix.mask) * images[mix.partner]
    torch.testing.assert_close(mix.images, expected)


def test_mean_lam_over_draws_and_its_extremes():
    images, plugin = torch.zeros(100, 1, 32, 32), SmoothMix(per_sample=True)
    shares = torch.cat([1 - generate(plugin, images, seed).lam for seed in range(100)])
    # the specification's 0.429 holds for 4000 draws; the standard deviation of one is 0.15
    assert shares.mean().item() == pytest.approx(0.429, abs=0.006)
    assert shares.min() >= 0.098
    assert shares.max() <= 0.733
    assert shares.min() < 0.13
    assert shares.max() > 0.70


@pytest.mark.parametrize(("height", "width"), [(4, 4), (5, 6)])
def test_the_middle_takes_every_place_equally_often(height, width):
    """The peak's offset is read off a narrow bump, so that what is drawn is tested and not how."""
    images, plugin = torch.zeros(60, 1, height, width), SmoothMix(per_sample=True, sigma_range=(0.3, 0.3))
    logs = [-(1 - generate(plugin, images, seed).mask[:, 0].double()).log() for seed in range(50)]
    distances = torch.cat(logs) * 2 * (0.3 * height) ** 2
    for axis, size in ((1, height), (2, width)):
        slope = distances.select(axis, 0) - distances.select(axis, 1)
        # (0 - c)² - (1 - c)² = 2c - 1
        centres = (slope.mean(1) + 1) / 2
        shifts = centres - (size - 1) / 2
        found, counts = shifts.round().unique(return_counts=True)
        assert (shifts - shifts.round()).abs().max() < 1e-2, "whole pixels"
        assert found.tolist() == list(range(-(size // 2), size - size // 2))
        assert (counts / 3000).tolist() == pytest.approx([1 / size] * size, abs=0.04)


def test_the_width_is_uniform_in_its_range_of_the_height():
    # no wider than high, so that 1 - G keeps some digits of G in the corners
    images, plugin = torch.zeros(60, 1, 16, 10), SmoothMix(per_sample=True, sigma_range=(0.25, 0.5))
    logs = -torch.cat([(1 - generate(plugin, images, seed).mask[:, 0].double()).log() for seed in range(50)])
    # along a row the second difference of the distances is 2, so that of -log G is 1/sigma²
    second = logs[:, :, 2:] - 2 * logs[:, :, 1:-1] + logs[:, :, :-2]
    widths = second.mean((1, 2)).rsqrt() / 16
    assert widths.min() == pytest.approx(0.25, abs=0.005)
    assert widths.max() == pytest.approx(0.5, abs=0.005)
    assert widths.mean().item() == pytest.approx(0.375, abs=0.006)
    assert widths.std().item() == pytest.approx(0.25 / 12**0.5, abs=0.005)


def test_one_bump_per_batch_or_per_image():
    images = torch.randn(8, 3, 32, 32)
    shared, own = generate(SmoothMix(), images), generate(SmoothMix(per_sample=True), images)
    assert (shared.mask == shared.mask[0]).all()
    assert shared.lam.unique().numel() == 1
    assert own.lam.unique().numel() == 8


@pytest.mark.parametrize("per_sample", [False, True])
def test_swapped_labels_leave_pixels_and_mask_alone(per_sample):
    images = torch.randn(5, 3, 12, 12)
    plain = generate(SmoothMix(per_sample=per_sample), images)
    swapped = generate(SmoothMix(per_sample=per_sample, label_swap=True), images)
    assert torch.equal(plain.images, swapped.images)
    assert torch.equal(plain.mask, swapped.mask)
    torch.testing.assert_close(swapped.lam, 1 - plain.lam)
    assert (swapped.lam - plain.lam).abs().max() > 0.05


def test_the_area_policy_weighs_swapped_labels_by_the_mask_again():
    step = create_step(
        TinyConvNet(5), mix={"name": "smoothmix", "label_swap": True}, labels="area", num_classes=5, iterations=10
    )
    _, report = step(torch.randn(4, 3, 16, 16), torch.arange(4), iteration=1)
    torch.testing.assert_close(report.targets.weights[:, 0], report.mix.mask.mean((1, 2, 3)))
    torch.testing.assert_close(report.targets.weights[:, 0], 1 - report.mix.lam)


@pytest.mark.parametrize("per_sample", [False, True])
def test_overwriting_gives_the_same_bits_in_the_batch_itself(per_sample):
    images, plugin = torch.randn(7, 3, 16, 16), SmoothMix(per_sample=per_sample)
    kept = generate(plugin, images)
    batch = images.clone()
    mix = generate(plugin, batch, may_overwrite=True)
    assert mix.images is batch
    assert torch.equal(mix.images, kept.images)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_rounds_the_pixels_and_not_the_mask(dtype):
    images = torch.randn(4, 3, 16, 16)
    full, half = generate(SmoothMix(), images), generate(SmoothMix(), images.to(dtype))
    assert half.images.dtype == dtype
    assert torch.equal(half.mask, full.mask)
    assert torch.equal(half.lam, full.lam)
    torch.testing.assert_close(half.images.float(), full.images, rtol=0, atol=0.05)


@pytest.mark.parametrize("size", [(16, 24), (7, 5)])
@pytest.mark.parametrize(("width", "lam"), [(1e-6, 1.0), (1e6, 0.0)])
def test_the_narrowest_bump_leaves_the_image_and_the_widest_the_partner(width, lam, size):
    images = torch.randn(6, 3, *size)
    mix = generate(SmoothMix(per_sample=True, sigma_range=(width, width)), images)
    whole = mix.lam == lam
    # of odd height and width, the middle of a bump is a pixel, which is the partner's at any width
    assert whole.all() or (size == (7, 5) and lam == 1)
    assert torch.equal(mix.images[whole], (images if lam else images[mix.partner])[whole])
    assert (mix.mask[whole] == lam).all()
    assert mix.images.isfinite().all()
    assert (mix.lam - lam).abs().max() < 1.01 / 35


def test_a_sigma_whose_square_float32_has_not():
    rows, columns = gaussians(torch.zeros(1, 2), torch.tensor([1e-30]), 3, 4)
    assert rows.tolist() == [[0, 1, 0]]
    assert columns.tolist() == [[0, 0, 0, 0]]


def test_prob_of_zero_is_the_batch_itself_with_a_mask_of_ones():
    images = torch.randn(4, 3, 4, 4)
    mix = generate(SmoothMix(prob=0.0), images)
    assert mix.images is images
    assert mix.lam.tolist() == [1] * 4
    assert mix.partner.tolist() == [0, 1, 2, 3]
    assert (mix.masks_on(4, 4)[:, 0] == 1).all()


def test_prob_is_the_share_of_mixed_batches():
    plugin, image = SmoothMix(prob=0.3), torch.zeros(2, 1, 4, 4)
    mixed = sum(generate(plugin, image, seed).images is not image for seed in range(2000))
    assert mixed == pytest.approx(600, abs=80)


# --- refusals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wrong", [(0.0, 0.5), (0.5, 0.25), (-0.1, 0.5), (0.25, float("inf")), (float("nan"), 1.0)])
def test_a_range_of_widths_that_is_none_is_refused(wrong):
    with pytest.raises(ValueError, match=r"'sigma_range' must be two widths \[low, high\], as parts of"):
        SmoothMix(sigma_range=wrong)


def test_a_probability_out_of_range_is_refused():
    with pytest.raises(ValueError, match="prob"):
        SmoothMix(prob=2.0)


def test_the_example_of_the_readme_runs():
    names = run_example(Path(__file__).parents[1] / "README.md")
    assert names["targets"].shape == (8, 100)
    torch.testing.assert_close(names["targets"].sum(1), torch.ones(8))
