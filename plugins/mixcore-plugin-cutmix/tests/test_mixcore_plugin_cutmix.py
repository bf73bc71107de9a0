"""CutMix: the shipped contract, then the examples and invariants of its specification."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from mixcore_plugin_cutmix import CutMix, cutmix, cutmix_per_sample

from mixcore.api import Box
from mixcore.testing import MixerContract, make_step, run_example


class TestContract(MixerContract):
    plugin = "cutmix"


@pytest.mark.gpu
class TestContractOnCuda(MixerContract):
    plugin = "cutmix"
    device = "cuda"


@pytest.mark.gpu
class TestContractPerSampleOnCuda(MixerContract):
    plugin = "cutmix"
    options = {"per_sample": True}
    device = "cuda"
    left_out = ("two_processes",)


@pytest.mark.slow
class TestContractPerSample(MixerContract):
    plugin = "cutmix"
    left_out = ("two_processes",)
    options = {"per_sample": True, "alpha": 0.5, "partner": "flip"}


@pytest.mark.slow
class TestContractLargeImages(MixerContract):
    """Images from 64 pixels on go another way on the CPU."""

    plugin = "cutmix"
    left_out = ("two_processes",)
    options = {"per_sample": True}
    image_size = (64, 72)


@pytest.mark.slow
class TestContractMinMax(MixerContract):
    plugin = "cutmix"
    left_out = ("two_processes",)
    options = {"minmax": [0.25, 0.75], "per_sample": True}


@pytest.mark.slow
class TestContractDrawnLam(MixerContract):
    plugin = "cutmix"
    left_out = ("two_processes",)
    options = {"correct_lam": False, "partner": "derangement"}


def generate(plugin: CutMix, images: torch.Tensor, seed: int = 0, may_overwrite: bool = False):
    rng = torch.Generator().manual_seed(seed)
    return plugin.generate_mix(images=images, step=make_step(may_overwrite=may_overwrite), rng=rng)


def pasted(images: torch.Tensor, partner: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    return torch.where(mask.bool(), images, images[partner])


BOXES = [(Box(0, 2, 1, 3), 0.75), (Box(0, 1, 0, 1), 0.9375), (Box(0, 4, 0, 4), 0.0), (Box(2, 2, 0, 4), 1.0)]


@pytest.mark.parametrize(("box", "lam"), BOXES)
def test_a_shared_box(box, lam):
    images, partner = torch.randn(3, 2, 4, 4), torch.tensor([1, 2, 0])
    images[1, 0, 0, 1] = torch.inf
    mix = cutmix(images, partner, box)
    assert mix.lam.tolist() == pytest.approx([lam] * 3)
    assert mix.mask is not None
    assert mix.mask.shape == (3, 1, 4, 4)
    zeros = torch.ones(4, 4)
    zeros[box.top : box.bottom, box.left : box.right] = 0
    assert torch.equal(mix.mask[0, 0], zeros)
    assert torch.equal(mix.images, pasted(images, partner, mix.mask))


@pytest.mark.parametrize("size", [4, 64])
def test_a_box_per_image(size):
    images, partner = torch.randn(3, 3, size, size), torch.tensor([1, 2, 0])
    images[1, 0, 0, 1] = torch.nan
    boxes = torch.tensor([[0, 2, 1, 3], [0, 1, 0, 1], [0, size, 0, size]])
    mix = cutmix_per_sample(images, partner, boxes)
    assert mix.mask is not None
    assert mix.lam.tolist() == pytest.approx([1 - 4 / size**2, 1 - 1 / size**2, 0])
    torch.testing.assert_close(mix.images, pasted(images, partner, mix.mask), rtol=0, atol=0, equal_nan=True)
    torch.testing.assert_close(mix.mask.mean((1, 2, 3)), mix.lam, rtol=0, atol=1e-6)


def test_a_drawn_box_is_one_rectangle_with_lam_its_area():
    for seed in range(50):
        mix = generate(CutMix(), torch.randn(2, 1, 9, 14), seed)
        zero = mix.mask[0, 0] == 0
        rows, columns = zero.any(1), zero.any(0)
        assert torch.equal(zero, rows[:, None] & columns)
        for line in (rows, columns):
            ends = (line[1:] != line[:-1]).sum() + line[0] + line[-1]
            assert ends in (0, 2), "one interval"
        assert mix.lam[0].item() == pytest.approx(mix.mask[0].mean().item(), abs=1e-7)


@pytest.mark.parametrize("per_sample", [False, True])
@pytest.mark.parametrize("size", [16, 64])
def test_overwriting_gives_the_same_bits_in_the_batch_itself(per_sample, size):
    images = torch.randn(7, 3, size, size)
    plugin = CutMix(per_sample=per_sample)
    for seed in range(5):
        batch = images.clone()
        kept = generate(plugin, images.clone(), seed)
        mix = generate(plugin, batch, seed, may_overwrite=True)
        assert torch.equal(mix.images, kept.images)
        assert torch.equal(mix.images, pasted(images, mix.partner, mix.mask))


def test_a_shared_box_is_written_into_the_batch():
    images = torch.randn(4, 3, 16, 16)
    assert generate(CutMix(alpha=1.0), images, seed=3, may_overwrite=True).images is images


@pytest.mark.parametrize(("size", "mean"), [(32, 0.7008), (224, 0.682)])
def test_mean_lam_of_alpha_one(size, mean):
    images = torch.zeros(20, 1, size, size)
    plugin = CutMix(per_sample=True)
    draws = torch.cat([generate(plugin, images, seed).lam for seed in range(150)])
    assert draws.mean().item() == pytest.approx(mean, abs=0.02)


def test_correct_lam_changes_the_labels_and_not_the_box():
    images = torch.randn(5, 3, 12, 12)
    for per_sample in (False, True):
        corrected = generate(CutMix(per_sample=per_sample), images, 1)
        drawn = generate(CutMix(per_sample=per_sample, correct_lam=False), images, 1)
        assert torch.equal(corrected.images, drawn.images)
        assert (corrected.lam >= drawn.lam - 1e-6).all(), "clipping and flooring only enlarge lam"
        assert not torch.equal(corrected.lam, drawn.lam)


def test_minmax_sets_the_sides_and_ignores_alpha():
    mix = generate(CutMix(alpha=0.0, minmax=(0.25, 0.5), correct_lam=False), torch.randn(2, 1, 16, 32))
    zero = mix.mask[0, 0] == 0
    assert 4 <= zero.any(1).sum() < 8
    assert 8 <= zero.any(0).sum() < 16
    assert mix.lam[0].item() == pytest.approx(mix.mask[0].mean().item(), abs=1e-6)


@pytest.mark.parametrize("per_sample", [False, True])
def test_minmax_without_a_side_for_these_images(per_sample):
    with pytest.raises(ValueError, match=r"leaves no box side in an image of 4x4"):
        generate(CutMix(minmax=(0.1, 0.2), per_sample=per_sample), torch.randn(2, 1, 4, 4))


def test_one_box_per_batch_or_per_image():
    images = torch.randn(8, 3, 32, 32)
    assert generate(CutMix(), images).lam.unique().numel() == 1
    assert generate(CutMix(per_sample=True), images).lam.unique().numel() > 3


@pytest.mark.parametrize("plugin", [CutMix(alpha=0.0), CutMix(prob=0.0)], ids=["alpha", "prob"])
def test_an_unmixed_batch_is_the_batch_itself_with_a_mask_of_ones(plugin):
    images = torch.randn(4, 3, 4, 4)
    mix = generate(plugin, images)
    assert mix.images is images
    assert mix.lam.tolist() == [1] * 4
    assert mix.partner.tolist() == [0, 1, 2, 3]
    assert (mix.masks_on(4, 4)[:, 0] == 1).all()


def test_prob_is_the_share_of_mixed_batches():
    plugin, image = CutMix(prob=0.3, minmax=(0.5, 1.0)), torch.zeros(2, 1, 4, 4)
    mixed = sum(generate(plugin, image, seed).images is not image for seed in range(2000))
    assert mixed == pytest.approx(600, abs=80)


def test_partner_rules():
    images = torch.randn(5, 1, 4, 4)
    assert generate(CutMix(partner="flip"), images).partner.tolist() == [4, 3, 2, 1, 0]
    for seed in range(20):
        assert (generate(CutMix(partner="derangement"), images, seed).partner != torch.arange(5)).all()


@pytest.mark.parametrize(
    "options",
    [{"alpha": -1.0}, {"prob": 2.0}, {"partner": "reversed"}, {"minmax": (0.5, 0.5)}, {"minmax": (0.5, 1.5)}],
)
def test_options_out_of_range_are_refused(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        CutMix(**options)


def test_the_example_of_the_readme_runs():
    names = run_example(Path(__file__).parents[1] / "README.md")
    assert names["targets"].shape == (8, 100)
    torch.testing.assert_close(names["targets"].sum(1), torch.ones(8))
