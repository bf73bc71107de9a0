"""SaliencyMix: the shipped contract, then the examples and invariants of its specification."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from mixcore_plugin_saliencymix import OnOff8, SaliencyMix, boxes_at, onoff8, peaks, saliencymix
from mixcore_plugin_saliencymix.onoff import bytes_of

from mixcore.api import ConfigError, OptionValueError, fine_grained
from mixcore.mixers import create_mixer, create_step
from mixcore.testing import MixerContract, SaliencyContract, TinyConvNet, run_example, tiny_vit


class TestContract(MixerContract):
    plugin = "saliencymix"


@pytest.mark.gpu
class TestContractOnCuda(MixerContract):
    plugin = "saliencymix"
    device = "cuda"
    left_out = ("two_processes",)


@pytest.mark.slow
class TestContractOneBox(MixerContract):
    plugin = "saliencymix"
    options = {"per_sample_box": False, "alpha": 0.5}
    left_out = ("two_processes",)


@pytest.mark.slow
class TestContractOnOff(MixerContract):
    plugin = "saliencymix"
    options = {"saliency": "onoff8"}
    left_out = ("two_processes",)


class TestOnOffContract(SaliencyContract):
    plugin = "onoff8"


@pytest.mark.slow
class TestContractInputGradient(MixerContract):
    plugin = "saliencymix"
    options = {"saliency": "input_grad"}
    left_out = ("two_processes",)


@pytest.mark.slow
class TestContractAttention(MixerContract):
    plugin = "saliencymix"
    options = {"saliency": "attention"}
    left_out = ("two_processes",)


def mixer(**options):
    return create_mixer("saliencymix", num_classes=5, model=TinyConvNet(5), **options)


# --- the examples ----------------------------------------------------------------------------------------------------


def test_the_saliency_of_one_bright_pixel():
    image = torch.zeros(1, 1, 5, 5)
    image[0, 0, 2, 2] = 256
    saliency = fine_grained(image)[0]
    rows = torch.tensor([[56.0, 31, 6, 31, 56], [31, 19, 69, 19, 31], [6, 69, 144, 69, 6]])
    torch.testing.assert_close(saliency, torch.cat((rows, rows[:2].flip(0))))
    assert peaks(saliency[None], 5, 5).tolist() == [[2, 2]]


BOXES = [
    ((8, 8), 0.75, (1, 6), [0, 3, 4, 8], 0.8125),
    ((8, 8), 0.75, (4, 4), [2, 6, 2, 6], 0.75),
    ((4, 4), 0.25, (0, 0), [0, 1, 0, 1], 0.9375),
    ((6, 9), 1.0, (3, 3), [3, 3, 3, 3], 1.0),
]


@pytest.mark.parametrize(("size", "lam0", "peak", "box", "lam"), BOXES)
def test_a_box_around_a_peak(size, lam0, peak, box, lam):
    assert boxes_at(torch.tensor([peak]), lam0, *size).tolist() == [box]
    images, partner = torch.randn(2, 3, *size), torch.tensor([1, 0])
    images[1, 0, 0, 0] = torch.nan
    mix = saliencymix(images, partner, torch.tensor([peak, peak]), lam0)
    assert mix.lam.tolist() == pytest.approx([lam, lam])
    expected = images.clone()
    rows, columns = slice(*box[:2]), slice(*box[2:])
    expected[:, :, rows, columns] = images[partner][:, :, rows, columns]
    torch.testing.assert_close(mix.images, expected, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("size", [7, 32, 224])
def test_every_pixel_is_the_centre_of_its_own_box(size):
    centres = torch.stack((torch.arange(size), torch.arange(size).flip(0)), 1)
    boxes = boxes_at(centres, 1 - (3 / size) ** 2 - 1e-9, size, size)
    assert torch.equal(boxes[1:-1, 0], centres[1:-1, 0] - 1)
    assert torch.equal(boxes[1:-1, 3], centres[1:-1, 1] + 1)


# --- invariants ------------------------------------------------------------------------------------------------------


def blobs(rows, columns, size=64):
    """Dark images, each with one bright 5x5 block whose middle is given."""
    images = torch.zeros(len(rows), 3, size, size)
    for image, row, column in zip(images, rows, columns, strict=True):
        image[:, row - 2 : row + 3, column - 2 : column + 3] = 1
    return images


def test_the_box_lies_around_the_bright_spot_of_the_partner():
    images, labels = blobs([60, 64, 68, 55], [62, 70, 60, 58], size=128), torch.tensor([0, 1, 2, 3])
    centres = peaks(fine_grained(images), 128, 128)
    mix = mixer()(images, labels, iteration=5)
    assert mix.partner.tolist() != [0, 1, 2, 3]
    for row in range(4):
        zero = mix.mask[row, 0] == 0
        rows, columns = zero.any(1).nonzero().flatten(), zero.any(0).nonzero().flatten()
        assert torch.equal(zero, zero.any(1)[:, None] & zero.any(0)), "one rectangle"
        assert 4 < len(rows) < 100, "not clipped, so its middle can be told"
        middle = [(int(line[0]) + int(line[-1]) + 1) // 2 for line in (rows, columns)]
        assert middle == centres[mix.partner[row]].tolist()
    torch.testing.assert_close(mix.masks.mean((1, 2, 3)), mix.lam)
    assert torch.equal(mix.images, torch.where(mix.mask.bool(), images, images[mix.partner]))


def test_translating_the_spot_translates_the_peak():
    one, other = peaks(fine_grained(blobs([30, 33], [24, 35])), 64, 64).tolist()
    assert [other[0] - one[0], other[1] - one[1]] == [3, 11]


def test_saliency_scales_with_contrast_and_ignores_brightness():
    images = torch.rand(4, 3, 24, 32)
    torch.testing.assert_close(fine_grained(3 * images - 7), 3 * fine_grained(images), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(fine_grained(-images), fine_grained(images))
    assert (fine_grained(torch.full((1, 3, 9, 9), 0.3)) == 0).all()


def test_one_box_for_the_batch_comes_from_the_first_partner():
    images, labels = blobs([20, 32, 40, 25], [22, 40, 30, 28]), torch.tensor([0, 1, 2, 3])
    mix = mixer(per_sample_box=False)(images, labels, iteration=4)
    own = mixer()(images, labels, iteration=4)
    assert (mix.masks == mix.masks[0]).all()
    assert torch.equal(mix.masks[0], own.masks[0]), "the first image's partner, in either way"
    assert not torch.equal(mix.masks[1], own.masks[1])


def test_a_shared_peak_is_that_peak_for_each():
    images, partner, peak = torch.randn(5, 3, 9, 12), torch.arange(5).roll(2), torch.tensor([[2, 7]])
    shared, each = (saliencymix(images, partner, centres, 0.4) for centres in (peak, peak.expand(5, 2)))
    for one in ("images", "weights", "masks"):
        assert torch.equal(getattr(shared, one), getattr(each, one))


def test_labels_weigh_at_least_what_was_drawn():
    centres = torch.randint(16, (30, 2), generator=torch.Generator().manual_seed(0))
    images = torch.randn(30, 3, 16, 16)
    for drawn in (0.0, 0.1, 0.37, 0.5, 0.93, 1.0):
        mix = saliencymix(images, torch.arange(30).roll(1), centres, drawn)
        assert (mix.lam >= drawn - 1e-6).all()
        assert (mix.lam <= 1).all()


@pytest.mark.parametrize("options", [{"alpha": 0.0}, {"prob": 0.0}])
def test_an_unmixed_batch_is_the_batch_itself(options):
    images = torch.randn(3, 3, 8, 8)
    mix = mixer(**options)(images, torch.tensor([0, 1, 2]))
    assert mix.images is images
    assert mix.lam.tolist() == [1, 1, 1]
    assert (mix.masks_on(8, 8)[:, 0] == 1).all()


def test_coarse_maps_put_the_peak_into_the_middle_of_their_cell():
    saliency = torch.zeros(1, 4, 4)
    saliency[0, 1, 2] = 1
    row, column = peaks(saliency, 32, 32)[0].tolist()
    assert abs(row - 11.5) <= 0.5
    assert abs(column - 19.5) <= 0.5


@pytest.mark.parametrize("saliency", ["input_grad", "feature", "class_activation", "spectral_residual", "onoff8"])
def test_any_saliency_of_the_list(saliency):
    step = create_step(
        TinyConvNet(5),
        mix={"name": "saliencymix", "saliency": saliency},
        num_classes=5,
        iterations=10,
        image_size=(16, 24),
    )
    images, labels = torch.randn(6, 3, 16, 24), torch.arange(6) % 5
    loss, report = step(images, labels, iteration=1)
    assert loss.isfinite()
    assert report.mix.masks.shape == (6, 1, 16, 24)
    assert len({tuple(mask.flatten().tolist()) for mask in report.mix.masks}) > 1


# --- the published detector ------------------------------------------------------------------------------------------


def onoff_by_hand(grey):
    """The same in plain Python loops over windows, for one image of whole numbers."""
    height, width = grey.shape
    for _ in range(2):
        padded = torch.nn.functional.pad(grey[None, None], (1, 1, 1, 1), mode="reflect")[0, 0]
        kernel = torch.tensor([[1.0, 2, 1], [2, 4, 2], [1, 2, 1]])
        shifts = [(padded[r : r + height, c : c + width] * kernel[r, c]) for r in range(3) for c in range(3)]
        grey = (sum(shifts) / 16 + 0.5).floor()
    sums = [torch.zeros(height, width), torch.zeros(height, width)]
    for n in (12, 24, 48, 28, 56, 112):
        for i in range(height):
            for j in range(width):
                window = grey[max(i - n + 1, 0) : i + n + 1, max(j - n + 1, 0) : j + n + 1]
                mean = (window.sum() - grey[i, j]) / (window.numel() - 1)
                sums[0][i, j] += (grey[i, j] - mean).clamp(min=0).floor()
                sums[1][i, j] += (mean - grey[i, j]).clamp(min=0).floor()
    on, off = ((255 * one / one.max()).floor() for one in sums)
    return ((on + off) * 255 / max(on.max(), off.max())).floor() % 256 / 255


def test_the_published_detector_equals_its_definition():
    pixels = torch.randint(256, (2, 1, 15, 26), generator=torch.Generator().manual_seed(3)).float()
    found = onoff8(pixels)
    for one, image in zip(found, pixels, strict=True):
        torch.testing.assert_close(one, onoff_by_hand(image[0]))


def test_the_published_detector_peaks_on_the_background_too():
    """Both halves are scaled to 255 by themselves, so that the darkest background may win."""
    rng = torch.Generator().manual_seed(0)
    rows, columns = torch.randint(6, 26, (2, 60), generator=rng).tolist()
    images = (blobs(rows, columns, 32) * 150 + 40 * torch.rand(60, 1, 32, 32, generator=rng)).floor()

    def hits(saliency):
        found = peaks(saliency, 32, 32)
        return sum(
            abs(r - y) <= 2 and abs(c - x) <= 2 for (y, x), r, c in zip(found.tolist(), rows, columns, strict=True)
        )

    assert hits(fine_grained(images)) == 60
    assert hits(onoff8(images)) < 50


def test_bytes_come_back_from_normalised_images():
    pixels = torch.randint(256, (3, 3, 4, 5), generator=torch.Generator().manual_seed(0)).float()
    mean, std = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
    normalised = (pixels / 255 - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
    assert torch.equal(bytes_of(normalised, mean, std), pixels)
    with pytest.raises(OptionValueError, match="mean and std have 1 and 3 numbers, found images of 3 channels"):
        bytes_of(normalised, (0.5,), std)


def test_a_flat_image_has_no_contrast():
    assert (onoff8(torch.full((1, 3, 12, 12), 77.0)) == 0).all()


# --- refusals --------------------------------------------------------------------------------------------------------


def test_a_saliency_that_the_backbone_lacks_names_others_that_work():
    with pytest.raises(ConfigError) as caught:
        create_step(TinyConvNet(5), mix={"name": "saliencymix", "saliency": "attention"}, num_classes=5, iterations=1)
    message = str(caught.value)
    assert "needs attention of the backbone" in message
    assert 'take another plugin in place of attention (saliency = "fine_grained" looks at the image alone)' in message
    with pytest.raises(ConfigError, match="needs class_activation of the backbone"):
        create_step(
            tiny_vit(5, (16, 16)),
            mix={"name": "saliencymix", "saliency": "class_activation"},
            num_classes=5,
            iterations=1,
        )


@pytest.mark.parametrize("options", [{"alpha": -1.0}, {"prob": 2.0}])
def test_options_out_of_range_are_refused(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        SaliencyMix(**options)
    with pytest.raises(ValueError, match="std"):
        OnOff8(std=(1.0, 0.0, 1.0))


def test_the_example_of_the_readme_runs():
    names = run_example(Path(__file__).parents[1] / "README.md")
    assert names["targets"].shape == (8, 100)
    torch.testing.assert_close(names["targets"].sum(1), torch.ones(8))
