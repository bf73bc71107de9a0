"""ResizeMix: the shipped contract, then the examples and invariants of its specification."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from mixcore_plugin_resizemix import (
    ResizeMix,
    clipped_boxes,
    resizemix_boxes,
    resizemix_one_box,
    resizemix_one_size,
    shifted_boxes,
    shrink,
)

from mixcore.api import Box, Mix
from mixcore.mixers import create_step
from mixcore.testing import MixerContract, TinyConvNet, make_step, run_example


class TestContract(MixerContract):
    plugin = "resizemix"


@pytest.mark.slow
class TestContractPerSample(MixerContract):
    plugin = "resizemix"
    options = {"per_sample": True}
    left_out = ("two_processes",)


@pytest.mark.slow
class TestContractOneClippedBox(MixerContract):
    plugin = "resizemix"
    options = {"box": "clip", "per_sample_pos": False, "interpolation": "bilinear", "use_beta": True}
    left_out = ("two_processes",)


@pytest.mark.gpu
class TestContractOnCuda(MixerContract):
    plugin = "resizemix"
    device = "cuda"


@pytest.mark.gpu
class TestContractPerSampleOnCuda(MixerContract):
    plugin = "resizemix"
    options = {"per_sample": True}
    device = "cuda"
    left_out = ("two_processes",)


def generate(plugin: ResizeMix, images: torch.Tensor, seed: int = 0, may_overwrite: bool = False) -> Mix:
    rng = torch.Generator().manual_seed(seed)
    return plugin.generate_mix(images=images, step=make_step(may_overwrite=may_overwrite), rng=rng)


# --- the examples ----------------------------------------------------------------------------------------------------

COUNTED = torch.stack((torch.zeros(1, 4, 4), torch.arange(16.0).view(1, 4, 4)))
SWAPPED = torch.tensor([1, 0])


def every_way(box, interpolation="nearest"):
    """The mix of the counted image into the black one, by each of the three functions."""
    size = (box[1] - box[0], box[3] - box[2])
    return (
        resizemix_one_size(COUNTED, SWAPPED, torch.tensor([box, box])[:, ::2], size, interpolation),
        resizemix_one_box(COUNTED, SWAPPED, Box(*box), interpolation),
        resizemix_boxes(COUNTED, SWAPPED, torch.tensor([box, box]), interpolation),
    )


NEAREST, BILINEAR = [[0.0, 2], [8, 10]], [[2.5, 4.5], [10.5, 12.5]]


@pytest.mark.parametrize(("interpolation", "patch"), [("nearest", NEAREST), ("bilinear", BILINEAR)])
def test_a_quarter_in_the_middle(interpolation, patch):
    box = shifted_boxes(torch.tensor([0.5], dtype=torch.float64), torch.tensor([[2, 3]]), 4, 4)[0].tolist()
    assert box == [1, 3, 2, 4]
    expected = torch.zeros(4, 4)
    expected[1:3, 2:4] = torch.tensor(patch)
    inside = torch.zeros(4, 4, dtype=torch.bool)
    inside[1:3, 2:4] = True
    for mix in every_way(box, interpolation):
        torch.testing.assert_close(mix.images[0, 0], expected)
        assert mix.lam.tolist() == [0.75, 0.75]
        assert torch.equal(mix.mask[0, 0], 1 - inside.float())


def test_a_box_clipped_by_the_corner():
    box = clipped_boxes(torch.tensor([0.5], dtype=torch.float64), torch.tensor([[0, 3]]), 4, 4)[0].tolist()
    assert box == [0, 1, 2, 4]
    for mix in every_way(box):
        assert mix.images[0, 0].tolist() == [[0, 0, 0, 2], [0] * 4, [0] * 4, [0] * 4]
        assert mix.lam.tolist() == [0.875, 0.875]


STARTS = [(4, 0.5, [0, 0, 1, 2]), (8, 0.4, [0, 0, 1, 2, 3, 4, 5, 5])]


@pytest.mark.parametrize(("size", "scale", "starts"), STARTS)
def test_where_a_shifted_box_starts(size, scale, starts):
    centres = torch.stack((torch.arange(size), torch.arange(size).flip(0)), 1)
    boxes = shifted_boxes(torch.tensor([scale], dtype=torch.float64), centres, size, size)
    assert boxes[:, 0].tolist() == starts
    assert boxes[:, 2].tolist() == starts[::-1]
    assert (boxes[:, 1] - boxes[:, 0] == int(size * scale)).all()


def test_a_scale_of_one_is_the_partner_and_a_tiny_one_a_pixel():
    scales, centres = torch.tensor([1.0, 0.001], dtype=torch.float64), torch.tensor([[2, 1], [3, 5]])
    boxes = shifted_boxes(scales, centres, 5, 7)
    assert boxes.tolist() == [[0, 5, 0, 7], [3, 4, 5, 6]]
    images = torch.randn(2, 3, 5, 7)
    mix = resizemix_boxes(images, SWAPPED, boxes)
    assert torch.equal(mix.images[0], images[1])
    assert mix.lam.tolist() == pytest.approx([0, 1 - 1 / 35])
    assert torch.equal(mix.images[1, :, 3, 5], images[0, :, 0, 0])


def test_clipping_leaves_nothing_of_a_side_below_two():
    boxes = clipped_boxes(torch.tensor([0.4], dtype=torch.float64), torch.tensor([[2, 1]]), 4, 9)
    assert boxes.tolist() == [[2, 2, 0, 2]]
    images = torch.randn(2, 3, 4, 9)
    for mix in (
        resizemix_boxes(images, SWAPPED, boxes.expand(2, 4)),
        resizemix_one_box(images, SWAPPED, Box(*boxes[0].tolist())),
    ):
        assert torch.equal(mix.images, images)
        assert mix.lam.tolist() == [1, 1]
        assert (mix.mask == 1).all()


# --- invariants ------------------------------------------------------------------------------------------------------

WAYS = [
    {},
    {"per_sample": True},
    {"per_sample_pos": False},
    {"per_sample": True, "per_sample_pos": False},
    {"box": "clip"},
    {"box": "clip", "per_sample": True},
    {"box": "clip", "per_sample_pos": False},
]


@pytest.mark.parametrize("options", WAYS, ids=str)
@pytest.mark.parametrize("interpolation", ["nearest", "bilinear"])
def test_the_mix_is_the_shrunk_partner_in_its_box(options, interpolation):
    """Each image by hand: its box read off its mask, the partner resized to it by torch, one image at a time."""
    images, boxed = torch.randn(6, 3, 32, 20), 0
    for seed in range(6):
        mix = generate(ResizeMix(interpolation=interpolation, **options), images, seed)
        assert mix.mask.shape == (6, 1, 32, 20)
        torch.testing.assert_close(mix.mask.mean((1, 2, 3)), mix.lam, rtol=0, atol=1e-6)
        for row, mixed in enumerate(mix.images):
            zero = mix.mask[row, 0] == 0
            assert torch.equal(mix.mask[row, 0], 1 - zero.float())
            rows, columns = zero.any(1), zero.any(0)
            assert torch.equal(zero, rows[:, None] & columns)
            assert torch.equal(mixed[:, ~zero], images[row][:, ~zero])
            if not zero.any():
                continue
            boxed += 1
            top, left, h, w = (
                int(n) for n in (rows.float().argmax(), columns.float().argmax(), rows.sum(), columns.sum())
            )
            patch = mixed[:, top : top + h, left : left + w]
            whole = images[mix.partner[row]]
            if interpolation == "nearest":
                places = [i * 32 // h for i in range(h)], [j * 20 // w for j in range(w)]
                expected = whole[:, places[0]][:, :, places[1]]
                assert torch.equal(patch, expected)
            else:
                expected = torch.nn.functional.interpolate(whole[None], (h, w), mode="bilinear", align_corners=False)[0]
                torch.testing.assert_close(patch, expected, rtol=1e-4, atol=1e-4)
    assert boxed > 20


def test_the_three_ways_give_the_same_bits():
    images, partner = torch.randn(5, 3, 12, 9), torch.tensor([4, 0, 1, 1, 2])
    box = (3, 10, 2, 6)
    boxes = torch.tensor([box]).expand(5, 4)
    own = resizemix_boxes(images, partner, boxes)
    for other in (
        resizemix_one_box(images, partner, Box(*box)),
        resizemix_one_size(images, partner, boxes[:, ::2], (7, 4)),
    ):
        assert torch.equal(other.images, own.images)
        assert torch.equal(other.mask, own.mask)
        assert torch.equal(other.lam, own.lam)


def test_the_other_image_is_sampled_by_whole_numbers():
    """The floors of i·H/h, where a float step differs from them for some sizes."""
    for size in (32, 224):
        image = torch.arange(size, dtype=torch.float32).expand(1, 1, size, size)
        for side in range(1, size + 1, 1 if size == 32 else 7):
            assert shrink(image, 1, side)[0, 0, 0].tolist() == [j * size // side for j in range(side)]


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear"])
@pytest.mark.parametrize("per_sample", [False, True])
def test_a_partner_of_one_colour_gives_a_patch_of_that_colour(interpolation, per_sample):
    images = torch.arange(6.0).view(6, 1, 1, 1).expand(6, 3, 16, 24).contiguous()
    mix = generate(ResizeMix(per_sample=per_sample, interpolation=interpolation), images)
    torch.testing.assert_close(mix.images, torch.where(mix.mask == 1, images, images[mix.partner]))


@pytest.mark.parametrize(("size", "mean"), [(32, 0.7703), (224, 0.7587)])
def test_mean_lam_over_draws_and_its_extremes(size, mean):
    plugin, images = ResizeMix(per_sample=True), torch.zeros(100, 1, size, size)
    lams = torch.cat([generate(plugin, images, seed).lam for seed in range(40)])
    assert lams.mean().item() == pytest.approx(mean, abs=0.01)
    assert lams.min() >= 1 - 0.8**2
    assert lams.min() < 0.42
    assert 0.98 < lams.max() < 1


@pytest.mark.parametrize("box", ["shift", "clip"])
def test_one_place_or_one_scale_for_the_batch_or_one_per_image(box):
    images = torch.randn(8, 3, 32, 32)

    def different(**options):
        mix = generate(ResizeMix(box=box, scope=(0.3, 0.6), **options), images, seed=3)
        sizes = {(int((one == 0).any(1).sum()), int((one == 0).any(0).sum())) for one in mix.mask[:, 0]}
        return len(sizes), len(mix.mask.unique(dim=0))

    assert different(per_sample_pos=False) == (1, 1)
    sizes, masks = different(per_sample=True, per_sample_pos=False)
    assert sizes > 3
    assert masks > 3
    sizes, masks = different()
    assert (sizes == 1) == (box == "shift"), "clipped sizes differ with the place"
    assert masks > 6


def test_places_are_uniform_over_centres():
    """Rows of the box's top, of a side of 3 in 8 rows: the two at either end stand for two centres, and one."""
    plugin, images = ResizeMix(scope=(0.375, 0.375)), torch.zeros(100, 1, 8, 8)
    tops = torch.cat(
        [(generate(plugin, images, seed).mask[:, 0, :, :] == 0).any(2).float().argmax(1) for seed in range(40)]
    )
    shares = torch.bincount(tops, minlength=6) / 4000
    assert shares.tolist() == pytest.approx([0.25, 0.125, 0.125, 0.125, 0.125, 0.25], abs=0.025)


def sides(plugin, size=64):
    """Box sides, as parts of the image's, over many draws: one per image."""
    images = torch.zeros(100, 1, 2, size)
    return torch.cat([(generate(plugin, images, seed).mask[:, 0] == 0).any(1).sum(1) for seed in range(20)]) / size


def test_the_scale_is_uniform_in_its_scope_or_beta_inside_it():
    uniform = sides(ResizeMix(per_sample=True, scope=(0.25, 0.75)))
    assert uniform.min() >= 0.25 - 1e-6
    assert uniform.max() <= 0.75
    assert uniform.mean().item() == pytest.approx(0.5, abs=0.02)
    assert uniform.std().item() == pytest.approx(0.5 / 12**0.5, abs=0.01)
    # Beta(1, 1) with what lies outside drawn anew is the same law, Beta(40, 40) is narrow, Beta(0.05, 0.05) is outside
    for alpha, spread in ((1.0, 0.5 / 12**0.5), (40.0, 0.0556), (0.05, 0.5 / 12**0.5)):
        found = sides(ResizeMix(per_sample=True, scope=(0.25, 0.75), use_beta=True, alpha=alpha))
        assert found.min() >= 0.25 - 1e-6
        assert found.max() <= 0.75
        assert found.mean().item() == pytest.approx(0.5, abs=0.02)
        assert found.std().item() == pytest.approx(spread, abs=0.012)


@pytest.mark.parametrize("options", WAYS, ids=str)
def test_overwriting_gives_the_same_bits_in_the_batch_itself(options):
    images, plugin = torch.randn(7, 3, 16, 16), ResizeMix(scope=(0.5, 0.8), **options)
    for seed in range(3):
        kept, batch = generate(plugin, images, seed), images.clone()
        mix = generate(plugin, batch, seed, may_overwrite=True)
        assert mix.images.data_ptr() == batch.data_ptr()
        assert torch.equal(mix.images, kept.images)


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear"])
@pytest.mark.parametrize("options", WAYS, ids=str)
def test_any_memory_format_gives_the_same_pixels(options, interpolation):
    images, plugin = torch.randn(4, 3, 16, 24), ResizeMix(interpolation=interpolation, **options)
    plain = generate(plugin, images).images
    for other in (
        images.contiguous(memory_format=torch.channels_last),
        images.transpose(2, 3).contiguous().transpose(2, 3),
        torch.cat((images, images), 3)[..., :24],
    ):
        mix = generate(plugin, other)
        torch.testing.assert_close(mix.images, plain, rtol=1e-5, atol=1e-5)
        overwritten = generate(plugin, other.clone(memory_format=torch.preserve_format), may_overwrite=True)
        torch.testing.assert_close(overwritten.images, plain, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("options", [{}, {"per_sample": True}], ids=str)
def test_pixels_that_are_no_numbers_stay_where_they_are(options):
    images = torch.randn(4, 3, 16, 16)
    images[:, :, 5, 5] = torch.nan
    mix = generate(ResizeMix(**options), images)
    outside = (mix.mask == 1).expand_as(images)
    assert torch.equal(mix.images[outside].nan_to_num(7.5), images[outside].nan_to_num(7.5))
    assert mix.lam.isfinite().all()


@pytest.mark.parametrize("labels", ["weights", "area"])
def test_the_label_policies_agree_on_the_area(labels):
    step = create_step(
        TinyConvNet(5), mix={"name": "resizemix", "per_sample": True}, labels=labels, num_classes=5, iterations=10
    )
    _, report = step(torch.randn(4, 3, 16, 16), torch.arange(4), iteration=1)
    torch.testing.assert_close(report.targets.weights[:, 0], report.mix.mask.mean((1, 2, 3)))


@pytest.mark.parametrize("options", [{"prob": 0.0}, {"box": "clip", "per_sample_pos": False, "scope": (0.0, 0.1)}])
def test_a_batch_without_a_patch_is_the_batch_itself(options):
    images = torch.randn(4, 3, 8, 8)
    mix = generate(ResizeMix(**options), images)
    assert mix.images is images
    assert mix.lam.tolist() == [1] * 4
    assert (mix.masks_on(8, 8)[:, 0] == 1).all()


def test_prob_is_the_share_of_mixed_batches():
    plugin, image = ResizeMix(prob=0.3), torch.zeros(2, 1, 4, 4)
    mixed = sum(generate(plugin, image, seed).images is not image for seed in range(2000))
    assert mixed == pytest.approx(600, abs=80)


# --- refusals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wrong", [(0.8, 0.1), (-0.1, 0.5), (0.5, 1.5), (0.1, float("nan"))])
def test_a_scope_that_is_none_is_refused(wrong):
    with pytest.raises(ValueError, match=r"'scope' must be two shares \[low, high\] with 0 <= low <= high <= 1"):
        ResizeMix(scope=wrong)


@pytest.mark.parametrize(
    "options", [{"prob": 2.0}, {"alpha": 0.0}, {"alpha": float("inf")}, {"interpolation": "bicubic"}, {"box": "cut"}]
)
def test_options_out_of_range_are_refused(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        ResizeMix(**options)


def test_the_example_of_the_readme_runs():
    names = run_example(Path(__file__).parents[1] / "README.md")
    assert names["targets"].shape == (8, 100)
    torch.testing.assert_close(names["targets"].sum(1), torch.ones(8))
