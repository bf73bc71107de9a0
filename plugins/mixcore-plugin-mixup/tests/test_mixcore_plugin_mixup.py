"""Mixup: the shipped contract, then the examples and invariants of its specification."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from mixcore_plugin_mixup import Mixup, mixup

from mixcore.testing import MixerContract, make_step, run_example


class TestContract(MixerContract):
    plugin = "mixup"


@pytest.mark.gpu
class TestContractOnCuda(MixerContract):
    plugin = "mixup"
    device = "cuda"


@pytest.mark.gpu
class TestContractPerSampleOnCuda(MixerContract):
    plugin = "mixup"
    options = {"per_sample": True}
    device = "cuda"
    left_out = ("two_processes",)


@pytest.mark.slow
class TestContractPerSample(MixerContract):
    plugin = "mixup"
    left_out = ("two_processes",)
    options = {"per_sample": True, "alpha": 0.3}


@pytest.mark.slow
class TestContractFlip(MixerContract):
    plugin = "mixup"
    left_out = ("two_processes",)
    options = {"partner": "flip", "alpha": 2.0, "prob": 0.7}


def two_images() -> torch.Tensor:
    first, second = torch.tensor([[0.0, 1.0], [2.0, 3.0]]), torch.full((2, 2), 4.0)
    return torch.stack((first, second))[:, None]


def generate(plugin: Mixup, images: torch.Tensor, seed: int = 0, may_overwrite: bool = False):
    rng = torch.Generator().manual_seed(seed)
    return plugin.generate_mix(images=images, step=make_step(may_overwrite=may_overwrite), rng=rng)


@pytest.mark.parametrize("lam", [0.25, torch.tensor([0.25, 0.25])], ids=["shared", "per sample"])
def test_examples_one_to_three(lam):
    mix = mixup(two_images(), torch.tensor([1, 0]), lam)
    assert mix.images[0, 0].tolist() == [[3, 3.25], [3.5, 3.75]]
    assert mix.images[1, 0].tolist() == [[1, 1.75], [2.5, 3.25]]
    targets = mix.targets(torch.tensor([0, 2]))
    assert targets.dense(3).tolist() == [[0.25, 0, 0.75], [0.75, 0, 0.25]]
    torch.testing.assert_close(targets.dense(3, smoothing=0.3)[0], torch.tensor([0.275, 0.1, 0.625]))
    assert mix.mask is not None
    assert mix.mask.flatten().tolist() == [0.25, 0.25]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_lam_one_and_zero_are_exact_and_lam_promotes_nothing(dtype):
    images, partner = torch.randn(3, 3, 5, 4).to(dtype), torch.tensor([2, 0, 1])
    assert torch.equal(mixup(images, partner, 1.0).images, images)
    assert torch.equal(mixup(images, partner, 0.0).images, images[partner])
    mix = mixup(images, partner, torch.tensor([1.0, 0.0, 0.5]))
    assert torch.equal(mix.images[:2], torch.stack((images[0], images[0])))
    assert mix.images.dtype == dtype
    assert mix.lam.dtype == torch.float32


def test_mixed_pixels_lie_between_the_two():
    images = torch.randn(9, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    mix = generate(Mixup(per_sample=True), images)
    partner = images[mix.partner]
    assert (mix.images >= torch.minimum(images, partner)).all()
    assert (mix.images <= torch.maximum(images, partner)).all()


def test_overwriting_gives_the_same_bits_in_the_batch_itself():
    images = torch.randn(6, 3, 8, 8)
    kept = generate(Mixup(), images.clone())
    mix = generate(Mixup(), images, may_overwrite=True)
    assert mix.images is images
    assert torch.equal(images, kept.images)


@pytest.mark.parametrize("alpha", [0.2, 1.0])
def test_lam_follows_the_beta_distribution(alpha):
    plugin, image = Mixup(alpha=alpha), torch.zeros(1, 1, 1, 1)
    lams = torch.cat([generate(plugin, image, seed).lam for seed in range(3000)])
    per_sample = generate(Mixup(alpha=alpha, per_sample=True), torch.zeros(20_000, 1, 1, 1)).lam
    for draws, tolerance in ((lams, 0.05), (per_sample, 0.02)):
        assert draws.mean().item() == pytest.approx(0.5, abs=tolerance / 2)
        assert draws.var().item() == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=tolerance)


def test_one_lam_per_batch_or_per_image():
    images = torch.randn(8, 3, 4, 4)
    assert generate(Mixup(), images).lam.unique().numel() == 1
    assert generate(Mixup(per_sample=True), images).lam.unique().numel() == 8


@pytest.mark.parametrize("plugin", [Mixup(alpha=0.0), Mixup(prob=0.0)], ids=["alpha", "prob"])
def test_an_unmixed_batch_is_the_batch_itself(plugin):
    images = torch.randn(4, 3, 4, 4)
    mix = generate(plugin, images)
    assert mix.images is images
    assert mix.lam.tolist() == [1] * 4
    assert mix.partner.tolist() == [0, 1, 2, 3]


def test_prob_is_the_share_of_mixed_batches():
    plugin, image = Mixup(prob=0.3), torch.zeros(2, 1, 1, 1)
    mixed = sum(generate(plugin, image, seed).images is not image for seed in range(2000))
    assert mixed == pytest.approx(600, abs=80)


def test_flip_mixes_with_the_reversed_batch():
    assert generate(Mixup(partner="flip"), torch.randn(5, 1, 2, 2)).partner.tolist() == [4, 3, 2, 1, 0]


@pytest.mark.parametrize(
    "options", [{"alpha": -0.1}, {"alpha": float("inf")}, {"prob": 1.5}, {"prob": -0.1}, {"partner": "derangement"}]
)
def test_options_out_of_range_are_refused(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        Mixup(**options)


def test_the_example_of_the_readme_runs():
    names = run_example(Path(__file__).parents[1] / "README.md")
    assert names["targets"].shape == (8, 100)
    torch.testing.assert_close(names["targets"].sum(1), torch.ones(8))
