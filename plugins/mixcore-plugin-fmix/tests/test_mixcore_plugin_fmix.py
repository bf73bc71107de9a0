"""FMix: the shipped contract, then the examples and invariants of its specification."""

from __future__ import annotations

from pathlib import Path

import numpy
import pytest
import torch
from mixcore_plugin_fmix import FMix, fields, fmix, largest, noise_shape, pixel_counts, ramp_halves, ramps
from mixcore_plugin_fmix.ranks import BLOCK

from mixcore.api import uniforms
from mixcore.testing import MixerContract, make_step, run_example

SPECTRA = ["released", "isotropic"]


class TestContract(MixerContract):
    plugin = "fmix"


@pytest.mark.gpu
class TestContractOnCuda(MixerContract):
    plugin = "fmix"
    device = "cuda"


@pytest.mark.gpu
class TestContractPerSampleOnCuda(MixerContract):
    plugin = "fmix"
    options = {"per_sample": True, "spectrum": "isotropic"}
    device = "cuda"
    left_out = ("two_processes",)


@pytest.mark.slow
class TestContractPerSample(MixerContract):
    plugin = "fmix"
    left_out = ("two_processes",)
    options = {"per_sample": True, "alpha": 0.5, "spectrum": "isotropic"}


@pytest.mark.slow
class TestContractSoft(MixerContract):
    plugin = "fmix"
    left_out = ("two_processes",)
    options = {"max_soft": 0.2, "per_sample": True}


@pytest.mark.slow
class TestContractReformulated(MixerContract):
    """All label weights are 1 then, per sample too."""

    plugin = "fmix"
    left_out = ("two_processes", "one_lam_per_image")
    options = {"reformulate": True, "per_sample": True}


def generate(plugin: FMix, images: torch.Tensor, seed: int = 0):
    rng = torch.Generator().manual_seed(seed)
    return plugin.generate_mix(images=images, step=make_step(iteration=seed), rng=rng)


def drawn(count: int, size: tuple[int, int], spectrum: str, decay_power: float = 3.0, seed: int = 0) -> torch.Tensor:
    rng = torch.Generator().manual_seed(seed)
    return fields(torch.randn(count, *noise_shape(*size, spectrum), generator=rng), *size, decay_power, spectrum)


# --- the examples ----------------------------------------------------------------------------------------------------

FIELD = torch.tensor([[0.9, 0.1, 0.3, 0.8], [0.2, 0.7, 0.5, 0.05], [0.6, 0.4, 1, 0], [0.15, 0.25, 0.35, 0.45]])


@pytest.mark.parametrize(("draw", "count", "lam"), [(0.7, 4, 0.25), (0.2, 5, 0.3125)])
def test_a_hard_mask(draw, count, lam):
    counts = pixel_counts(torch.tensor([0.3]).double(), torch.tensor([draw]).double(), 16)
    assert counts.tolist() == [count]
    images, partner = torch.randn(2, 3, 4, 4), torch.tensor([1, 0])
    images[1, 0, 0, 1] = torch.inf
    mix = fmix(images, partner, FIELD[None], counts)
    ones = [[0, 0], [0, 3], [1, 1], [2, 2]] + [[2, 0]] * (count - 4)
    assert sorted(mix.mask[0, 0].nonzero().tolist()) == sorted(ones)
    assert torch.equal(mix.mask[0], mix.mask[1])
    assert mix.lam.tolist() == pytest.approx([lam, lam])
    assert torch.equal(mix.images, torch.where(mix.mask.bool(), images, images[partner]))


def test_a_soft_mask():
    lam = torch.tensor([0.5]).double()
    halves = ramp_halves(lam, 0.125, 16)
    assert halves.tolist() == [2]
    images, partner = torch.randn(2, 3, 4, 4), torch.tensor([1, 0])
    mix = fmix(images, partner, FIELD[None], pixel_counts(lam, lam, 16), halves)
    expected = torch.where(FIELD > 0.42, 1.0, 0.0)
    expected[2, 1], expected[3, 2], expected[0, 2] = 2 / 3, 1 / 3, 0.0
    torch.testing.assert_close(mix.mask[0, 0], expected)
    assert mix.lam.tolist() == [0.5, 0.5]
    torch.testing.assert_close(mix.images, mix.mask * images + (1 - mix.mask) * images[partner])


def test_a_mask_of_four_pixels():
    field = torch.tensor([[[0.9, 0.1], [0.4, 0.6]]])
    assert largest(field.flatten(1), torch.tensor([2])).tolist() == [[True, False, False, True]]


# --- pixels by rank --------------------------------------------------------------------------------------------------


def by_sorting(values: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
    order = values.argsort(dim=1, descending=True, stable=True)
    first = torch.arange(values.shape[1]) < counts[:, None]
    return torch.zeros_like(first).scatter_(1, order, first)


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (5, 3), (16, 24), (224, 224)])
def test_the_largest_are_those_that_sorting_finds(size):
    rng = torch.Generator().manual_seed(0)
    pixels, rows = size[0] * size[1], 12
    values = torch.randn(rows, pixels, generator=rng)
    counts = torch.randint(pixels + 1, (rows,), generator=rng)
    counts[:3] = torch.tensor([0, pixels, pixels // 2])
    assert rows * 224**2 > BLOCK, "the largest size goes through several blocks"
    found = largest(values, counts)
    assert torch.equal(found.sum(1), counts)
    ones, zeros = values.masked_fill(~found, torch.inf).amin(1), values.masked_fill(found, -torch.inf).amax(1)
    assert (ones >= zeros - 2**-23 * (values.amax(1) - values.amin(1))).all()
    spaced = values.argsort(1).argsort(1).float() - pixels / 3  # as far apart as can be
    assert torch.equal(largest(spaced, counts), by_sorting(spaced, counts))


def test_equal_values_rank_by_their_place():
    rng = torch.Generator().manual_seed(1)
    values = torch.randint(-2, 3, (40, 60), generator=rng).float()
    values[0] = 0.25
    counts = torch.randint(61, (40,), generator=rng)
    assert torch.equal(largest(values, counts), by_sorting(values, counts))


@pytest.mark.parametrize("scale", [1e-20, 1.0, 1e20])
def test_all_pixels_or_none_whatever_the_range(scale):
    values = torch.randn(200, 33, generator=torch.Generator().manual_seed(2)) * scale
    assert largest(values, torch.full((200,), 33)).all()
    assert not largest(values, torch.zeros(200, dtype=torch.int64)).any()


def test_ramps_have_the_mean_of_the_hard_mask_and_its_bits_without_softness():
    rng = torch.Generator().manual_seed(3)
    values, lam = torch.randn(300, 96, generator=rng), uniforms(300, rng=rng)
    lam[:2] = torch.tensor([0.0, 1.0])
    counts = pixel_counts(lam, uniforms(300, rng=rng), 96)
    halves = ramp_halves(lam, 0.3, 96)
    soft = ramps(values, counts, halves)
    assert ((soft >= 0) & (soft <= 1)).all()
    torch.testing.assert_close(soft.mean(1), counts / 96, rtol=0, atol=1e-6)
    rank = values.argsort(1, descending=True).argsort(1)
    inner, outer = rank < (counts - halves)[:, None], rank >= (counts + halves)[:, None]
    assert (soft[inner] == 1).all()
    assert (soft[outer] == 0).all()
    assert ((soft > 0) & (soft < 1)).sum() == (2 * halves - 2).clamp(min=0).sum()
    hard = ramps(values, counts, torch.zeros_like(halves))
    assert torch.equal(hard, by_sorting(values, counts).float())


def test_counts_are_the_share_rounded_up_or_down():
    rng = torch.Generator().manual_seed(4)
    lam = uniforms(2000, rng=rng)
    lam[:2] = torch.tensor([0.0, 1.0])
    counts = pixel_counts(lam, uniforms(2000, rng=rng), 49)
    assert ((counts - lam * 49).abs() < 1).all()
    assert counts[:2].tolist() == [0, 49]
    assert (counts > lam * 49).double().mean().item() == pytest.approx(0.5, abs=0.05)


# --- fields ----------------------------------------------------------------------------------------------------------


def by_numpy(noise: torch.Tensor, height: int, width: int, decay: float, spectrum: str) -> torch.Tensor:
    """The formula of the page, plainly, bin by bin."""
    lowest, rows = 1 / max(height, width), noise.shape[1]
    spectra = numpy.zeros((len(noise), rows, noise.shape[2]), complex)
    for i in range(rows):
        for k in range(noise.shape[2]):
            if spectrum == "isotropic":
                both = [numpy.hypot(numpy.fft.fftfreq(height)[i], k / width)] * 2
            else:
                across = min(i, width // 2) / width
                both = [across, numpy.hypot(across, 1 / height)]
            real, imaginary = (noise[:, i, k, c].double().numpy() / max(f, lowest) ** decay for c, f in enumerate(both))
            spectra[:, i, k] = real + 1j * imaginary
    return torch.from_numpy(numpy.stack([numpy.fft.irfft2(one, (height, width)) for one in spectra]))


@pytest.mark.parametrize("spectrum", SPECTRA)
@pytest.mark.parametrize("size", [(16, 16), (9, 14), (14, 9), (4, 33), (1, 8), (8, 1), (5, 2), (6, 3), (1, 1)])
def test_fields_are_those_of_the_formula(size, spectrum):
    noise = torch.randn(3, *noise_shape(*size, spectrum), generator=torch.Generator().manual_seed(5))
    expected = by_numpy(noise, *size, 3.0, spectrum)
    found = fields(noise, *size, 3.0, spectrum).double() * max(size) ** 3
    assert found.shape == (3, *size)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5 * expected.abs().max().item())


def test_released_fields_have_at_most_one_cycle_across():
    spectrum = torch.fft.fft2(drawn(20, (16, 16), "released").double()).abs()
    largest_of_all = spectrum.amax()
    assert (spectrum[:, :, 2:15] < 1e-6 * largest_of_all).all()
    assert (spectrum[:, :, [0, 1, 15]].mean((0, 2)) > 1e-4 * largest_of_all).all(), "all row frequencies"
    waves = torch.fft.fft2(drawn(20, (16, 16), "isotropic").double()).abs().mean(0)
    assert (waves[0, 2:8] > 1e-4 * waves.amax()).all()


def test_isotropic_fields_fall_as_the_power_of_the_frequency():
    for decay in (3.0, 2.0):
        power = torch.fft.fft2(drawn(500, (16, 16), "isotropic", decay).double()).abs().square().mean(0)
        assert (power[1, 1] / power[0, 1]).item() == pytest.approx(2**-decay, rel=0.2)
        assert (power[1, 0] / power[0, 1]).item() == pytest.approx(0.5, rel=0.2)


@pytest.mark.parametrize("spectrum", SPECTRA)
def test_a_steep_decay_overflows_nothing(spectrum):
    assert drawn(4, (224, 224), spectrum, 200.0).isfinite().all()


# --- the mixer -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spectrum", SPECTRA)
@pytest.mark.parametrize("per_sample", [False, True])
def test_lam_is_the_mean_of_a_hard_mask(spectrum, per_sample):
    images = torch.randn(6, 2, 9, 14)
    images[:, :, 3, 5] = torch.nan
    for seed in range(10):
        mix = generate(FMix(spectrum=spectrum, per_sample=per_sample), images, seed)
        assert ((mix.mask == 0) | (mix.mask == 1)).all()
        torch.testing.assert_close(mix.mask.mean((1, 2, 3)), mix.lam, rtol=0, atol=1e-6)
        expected = torch.where(mix.mask.bool(), images, images[mix.partner])
        torch.testing.assert_close(mix.images, expected, rtol=0, atol=0, equal_nan=True)
        assert (mix.lam.unique().numel() > 2) is per_sample


def test_one_field_for_the_batch_or_one_for_each_image():
    images = torch.randn(6, 1, 16, 16)
    assert (generate(FMix(), images).mask == generate(FMix(), images).mask[0]).all()
    masks = generate(FMix(per_sample=True), images).mask.flatten(1)
    correlation = torch.corrcoef(masks)
    assert (correlation - torch.eye(6)).abs().mean() < 0.5


def test_masks_are_blobs():
    """Fewer changes from pixel to pixel than a tenth of what noise has; a smaller decay has more of them."""

    def changes(decay_power):
        mask = generate(FMix(per_sample=True, decay_power=decay_power), torch.zeros(50, 1, 32, 32)).mask
        return (mask.diff(dim=2) != 0).float().mean() + (mask.diff(dim=3) != 0).float().mean()

    assert changes(3.0) < 0.1
    assert changes(1.0) > 1.5 * changes(3.0)


def test_all_of_the_image_or_nothing():
    images, partner, field = torch.randn(3, 2, 5, 4), torch.tensor([2, 0, 1]), drawn(1, (5, 4), "released")
    lam = torch.tensor([1.0, 0.0]).double()
    for draw in (0.0, 0.9):
        whole, none = pixel_counts(lam, torch.full((2,), draw).double(), 20).split(1)
        for halves in (None, torch.zeros(1, dtype=torch.int64)):
            assert torch.equal(fmix(images, partner, field, whole, halves).images, images)
            assert torch.equal(fmix(images, partner, field, none, halves).images, images[partner])


def furthest(found: torch.Tensor, cdf) -> float:
    """The statistic of Kolmogorov and Smirnov."""
    values = cdf(found.sort().values)
    steps = torch.arange(1, len(values) + 1, dtype=torch.float64) / len(values)
    return torch.maximum((steps - values).abs(), (steps - 1 / len(values) - values).abs()).max().item()


def test_lam_has_the_law_of_beta():
    images = torch.zeros(2000, 1, 16, 16)
    lam = generate(FMix(per_sample=True), images).lam.double()
    assert furthest(lam, lambda x: x) < 0.04 + 1 / 256
    small = generate(FMix(per_sample=True, alpha=0.2), images).lam
    assert small.var().item() == pytest.approx(1 / (4 * (2 * 0.2 + 1)), rel=0.1)


def test_reformulated_the_own_label_counts_alone_and_the_masks_make_up_for_it():
    images = torch.zeros(4000, 1, 8, 8)
    mix = generate(FMix(per_sample=True, reformulate=True), images)
    assert (mix.lam == 1).all()
    means = mix.mask.mean((1, 2, 3)).double()
    assert furthest(means, lambda x: x.square()) < 0.03 + 1 / 64, "Beta(2, 1)"
    shared = generate(FMix(reformulate=True), torch.zeros(3, 1, 8, 8))
    assert shared.weights.tolist() == [[1, 0]] * 3


def test_a_soft_border_keeps_lam():
    images = torch.randn(8, 3, 16, 16)
    hard, soft = (generate(FMix(per_sample=True, max_soft=s), images, 3) for s in (0.0, 0.3))
    assert torch.equal(hard.lam, soft.lam)
    assert torch.equal(hard.partner, soft.partner)
    torch.testing.assert_close(soft.mask.mean((1, 2, 3)), soft.lam, rtol=0, atol=1e-6)
    assert ((soft.mask > 0) & (soft.mask < 1)).any()
    blended = soft.mask * images + (1 - soft.mask) * images[soft.partner]
    torch.testing.assert_close(soft.images, blended)


def test_alpha_zero_leaves_the_batch_itself():
    images = torch.randn(3, 3, 8, 8)
    mix = generate(FMix(alpha=0.0), images)
    assert mix.images is images
    assert (mix.masks_on(8, 8)[:, 0] == 1).all()


REFUSED = [{"alpha": -1.0}, {"decay_power": -0.5}, {"max_soft": 0.6}, {"max_soft": -0.1}, {"spectrum": "white"}]


@pytest.mark.parametrize("options", REFUSED)
def test_options_out_of_range_are_refused(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        FMix(**options)


def test_the_example_of_the_readme_runs():
    names = run_example(Path(__file__).parents[1] / "README.md")
    assert names["targets"].shape == (8, 100)
    torch.testing.assert_close(names["targets"].sum(1), torch.ones(8))
