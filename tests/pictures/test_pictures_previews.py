"""Pictures of masks over lam."""

from __future__ import annotations

import torch

from mixcore.pictures.layout import draw
from mixcore.pictures.previews import preview_block, preview_grid
from mixcore.types import Mix, Task

TASK = Task(num_classes=2, in_channels=1, image_size=(8, 8), mean=(0.5,), std=(0.25,))


def mixes() -> tuple[torch.Tensor, list[Mix]]:
    images = torch.stack([torch.full((1, 8, 8), level) for level in (-2.0, 0.0, 2.0)])
    partner = torch.tensor([1, 2, 0])
    made = [Mix.pair(images, partner, lam, torch.full((3, 1, 4, 4), share)) for lam, share in ((0.1, 0.0), (0.9, 1.0))]
    return images, made


def test_a_grid_has_a_row_per_image_and_a_column_per_ratio() -> None:
    images, made = mixes()
    grid = preview_grid(images, made, TASK, rows=2)
    assert grid.dtype == torch.uint8
    assert grid.shape == (3, 2 * 10 + 2, 4 * 10 + 2)
    middles = grid[0, 6::10, 6::10]
    # black image, grey partner, nothing of it, all of it; below grey, white
    assert middles.tolist() == [[0, 128, 0, 255], [128, 255, 0, 255]]


def test_a_block_of_a_sheet() -> None:
    images, made = mixes()
    block = preview_block("learnt", images, made, (0.1, 0.9), TASK, rows=3)
    assert block.columns == ["image", "partner", "lam 0.1", "lam 0.9", "mean of the mask"]
    assert [cell.caption for cell in block.rows[0][2:4]] == ["mean 0.000", "mean 1.000"]
    assert block.rows[2][4].lines == ["0.00 to 1.00"]
    assert draw([block]).size[1] > 3 * 128
