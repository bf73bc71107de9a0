"""Saliency of the image alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from mixcore.evidence.saliency import fine_grained, grey, spectral_residual


def natural(size: int = 40, seed: int = 0) -> Tensor:
    """Images with most of their power at low frequencies, as photographs have it."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(2, 3, size, size, generator=generator)
    distance = (torch.fft.fftfreq(size)[:, None] ** 2 + torch.fft.fftfreq(size)[None] ** 2).sqrt()
    return torch.fft.ifft2(torch.fft.fft2(noise) / (distance + 1 / size)).real


def slow_fine_grained(level: np.ndarray) -> np.ndarray:
    """Step 2 of the specification, pixel by pixel, in float64."""
    height, width = level.shape
    for _ in range(2):
        wide = np.pad(level, 1, mode="reflect")
        rows = (wide[:-2] + 2 * wide[1:-1] + wide[2:]) / 4
        level = (rows[:, :-2] + 2 * rows[:, 1:-1] + rows[:, 2:]) / 4
    total = np.zeros_like(level)
    for n in (12, 24, 48, 28, 56, 112):
        for i in range(height):
            for j in range(width):
                window = level[max(0, i - n + 1) : i + n + 1, max(0, j - n + 1) : j + n + 1]
                total[i, j] += abs(level[i, j] - (window.sum() - level[i, j]) / (window.size - 1))
    return total


def test_the_example_of_the_specification() -> None:
    image = torch.zeros(1, 1, 5, 5)
    image[0, 0, 2, 2] = 256
    found = fine_grained(image)[0]
    expected = torch.tensor([[56.0, 31, 6, 31, 56], [31, 19, 69, 19, 31], [6, 69, 144, 69, 6]])
    torch.testing.assert_close(found[:3], expected, rtol=0, atol=1e-3)
    torch.testing.assert_close(found, found.flip(0), rtol=0, atol=1e-3)
    assert int(found.argmax()) == 12


@pytest.mark.parametrize("shape", [(40, 40), (31, 57)])
def test_it_is_what_the_loops_say(shape) -> None:
    image = torch.randn(1, 3, *shape, generator=torch.Generator().manual_seed(3))
    expected = slow_fine_grained(grey(image)[0].double().numpy())
    torch.testing.assert_close(fine_grained(image)[0].double(), torch.from_numpy(expected), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shape", [(1, 9), (1, 1), (2, 3)])
def test_tiny_images_have_a_map(shape) -> None:
    found = fine_grained(torch.rand(2, 3, *shape))
    assert found.shape == (2, *shape)
    assert bool(found.isfinite().all())


def test_brightness_does_not_matter_and_contrast_scales() -> None:
    images = natural()
    plain = fine_grained(images)
    torch.testing.assert_close(fine_grained(-3 * images + 10), 3 * plain, rtol=1e-3, atol=1e-3)
    assert bool((plain >= 0).all())


def test_a_constant_image_is_exactly_zero() -> None:
    levels = torch.tensor([0.1, 123.4, -7.7, 1 / 3]).view(-1, 1, 1, 1)
    assert not fine_grained(levels.expand(-1, 3, 33, 21)).any()


def test_the_peak_follows_a_blob() -> None:
    images = torch.zeros(3, 3, 64, 64)
    centres = [(30, 30), (33, 40), (25, 28)]
    for image, (row, column) in zip(images, centres, strict=True):
        image[:, row - 2 : row + 3, column - 2 : column + 3] = 1
    peaks = fine_grained(images).flatten(1).argmax(1)
    assert [divmod(int(peak), 64) for peak in peaks] == centres


def test_one_call_for_the_batch_equals_single_calls() -> None:
    images = natural()
    for function in (fine_grained, spectral_residual):
        torch.testing.assert_close(function(images)[1:], function(images[1:]))


def test_large_images_keep_the_peak_of_float64() -> None:
    image = torch.rand(1, 1, 224, 224, generator=torch.Generator().manual_seed(0)) * 255
    level = image[0, 0].double()
    for axis in (0, 0, 1, 1):
        wide = torch.cat((level.narrow(axis, 1, 1), level, level.narrow(axis, 222, 1)), axis)
        level = (wide.narrow(axis, 0, 224) + 2 * level + wide.narrow(axis, 2, 224)) / 4
    sums = torch.nn.functional.pad(level.cumsum(0).cumsum(1), (1, 0, 1, 0))
    exact = torch.zeros_like(level)
    index = torch.arange(224)
    for n in (12, 24, 48, 28, 56, 112):
        low, high = (index - n + 1).clamp(min=0), (index + n + 1).clamp(max=224)
        window = sums[high][:, high] - sums[low][:, high] - sums[high][:, low] + sums[low][:, low]
        count = (high - low)[:, None] * (high - low)
        exact += (level - (window - level) / (count - 1)).abs()
    found = fine_grained(image)[0]
    torch.testing.assert_close(found.double(), exact, rtol=1e-4, atol=2e-3)
    assert int(found.argmax()) == int(exact.argmax())


def slow_spectral_residual(level: np.ndarray) -> np.ndarray:
    spectrum = np.fft.fft2(level)
    amplitude = np.sqrt(np.abs(spectrum) ** 2 + 1e-10)
    log = np.log(amplitude)
    wide = np.pad(log, 1, mode="edge")
    height, width = level.shape
    mean = sum(wide[i : i + height, j : j + width] for i in range(3) for j in range(3)) / 9
    found = np.abs(np.fft.ifft2(spectrum * np.exp(log - mean) / amplitude))
    taps = np.exp(-(np.arange(-3, 4) ** 2) / 18)
    kernel = np.outer(taps, taps) / taps.sum() ** 2
    wide = np.pad(found, 3, mode="reflect")
    return sum(kernel[i, j] * wide[i : i + height, j : j + width] for i in range(7) for j in range(7))


@pytest.mark.parametrize("channels", [1, 2, 3])
def test_spectral_residual_equals_the_plain_formula(channels) -> None:
    image = natural()[:1, :channels]
    level = grey(image)[0].double().numpy()
    found = spectral_residual(image)[0]
    torch.testing.assert_close(found.double(), torch.from_numpy(slow_spectral_residual(level)), rtol=1e-3, atol=1e-4)


def test_spectral_residual_finds_the_odd_one_out() -> None:
    """Stripes everywhere, one patch turned: the patch is what the spectrum does not expect."""
    stripes = (torch.arange(64) % 8 < 4).float().expand(64, 64).clone()
    stripes[20:28, 40:48] = stripes[20:28, 40:48].t().clone()
    # without noise nearly all amplitudes are 0, and so nothing but rounding
    stripes += 0.05 * torch.randn(64, 64, generator=torch.Generator().manual_seed(0))
    found = spectral_residual(stripes[None, None])[0]
    row, column = divmod(int(found.argmax()), 64)
    assert 18 <= row < 30
    assert 38 <= column < 50


def test_spectral_residual_of_large_and_odd_shapes() -> None:
    for shape in ((2, 3, 200, 140), (1, 1, 5, 3)):
        found = spectral_residual(torch.rand(shape, generator=torch.Generator().manual_seed(0)))
        assert found.shape == (shape[0], *shape[2:])
        assert bool(found.isfinite().all())
        assert bool((found >= 0).all())


def test_dtypes_and_graphs() -> None:
    images = natural().requires_grad_()
    for function in (fine_grained, spectral_residual):
        assert not function(images).requires_grad
        assert function(images.detach().bfloat16()).dtype == torch.float32
        with torch.autocast("cpu", dtype=torch.bfloat16):
            torch.testing.assert_close(function(images), function(images.detach()), rtol=0, atol=0)
