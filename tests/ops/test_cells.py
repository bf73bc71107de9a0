"""Cells of a grid, enlarged to pixels."""

from __future__ import annotations

import pytest
import torch

from mixcore.ops.blocks import cells_to_pixels


def test_whole_cells_are_repeated() -> None:
    cells = torch.tensor([[[[False, True], [True, False]]]])
    rows = [[0, 0, 1, 1], [0, 0, 1, 1], [1, 1, 0, 0], [1, 1, 0, 0]]
    pixels = cells_to_pixels(cells, 4, 4)
    assert pixels.dtype == torch.bool
    assert pixels[0, 0].int().tolist() == rows


def test_every_pixel_takes_its_cell_in_whole_numbers() -> None:
    """`F.interpolate` reads another cell at three of these sizes."""
    cells = torch.arange(7.0)[None, None, :, None]
    for size in range(7, 400):
        expected = [i * 7 // size for i in range(size)]
        assert cells_to_pixels(cells, size, 1)[0, 0, :, 0].tolist() == expected
        assert cells_to_pixels(cells.transpose(2, 3), 1, size)[0, 0, 0].tolist() == expected


@pytest.mark.parametrize(("size", "widths"), [(32, [5, 5, 4, 5, 4, 5, 4]), (64, [10, 9, 9, 9, 9, 9, 9])])
def test_cells_of_unequal_size(size: int, widths: list[int]) -> None:
    cells = torch.eye(7)[None]
    assert [int(row.sum()) for row in cells_to_pixels(cells, 7, size)[0]] == widths


def test_a_grid_finer_than_the_image_shows_some_of_its_cells() -> None:
    assert cells_to_pixels(torch.arange(9.0).view(1, 3, 3), 2, 1)[0].tolist() == [[0.0], [3.0]]
