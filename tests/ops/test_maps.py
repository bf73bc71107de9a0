"""Maps at another size, and smoothed."""

from __future__ import annotations

import math

import pytest
import torch

from mixcore.api import gaussian_blur, resize_maps


def test_maps_grow_between_the_centres_of_their_positions() -> None:
    maps = torch.tensor([[[0.0, 4.0]]])
    assert resize_maps(maps, 1, 4).tolist() == [[[0, 1, 3, 4]]]
    assert resize_maps(maps.half(), 2, 2).dtype == torch.float32
    assert resize_maps(maps, 1, 2) is maps


@pytest.mark.parametrize(("size", "sigma"), [(1, 2.0), (3, 0.8), (7, 3.0)])
def test_one_bright_pixel_becomes_a_gaussian(size: int, sigma: float) -> None:
    maps = torch.zeros(1, 15, 17)
    maps[0, 7, 8] = 1
    blurred = gaussian_blur(maps, size, sigma)[0]
    half = size // 2
    taps = torch.tensor([math.exp(-(d**2) / (2 * sigma**2)) for d in range(-half, half + 1)])
    taps = taps / taps.sum()
    expected = torch.zeros(15, 17)
    expected[7 - half : 8 + half, 8 - half : 9 + half] = taps[:, None] * taps
    torch.testing.assert_close(blurred, expected)


@pytest.mark.parametrize("shape", [(2, 9, 9), (2, 3, 12), (1, 1, 1)])
def test_what_is_the_same_everywhere_stays_so_to_the_edges(shape: tuple[int, ...]) -> None:
    torch.testing.assert_close(gaussian_blur(torch.full(shape, 2.5), 7, 3.0), torch.full(shape, 2.5))


def test_edges_are_reflected_without_their_last_line() -> None:
    maps = torch.zeros(1, 1, 6)
    maps[0, 0, 1] = 1
    blurred = gaussian_blur(maps, 3, 1e9)[0, 0]
    torch.testing.assert_close(blurred, torch.tensor([2 / 3, 1 / 3, 1 / 3, 0, 0, 0]))
