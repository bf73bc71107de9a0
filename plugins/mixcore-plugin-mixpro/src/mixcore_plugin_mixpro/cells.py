"""The cells of MaskMix: their side, which of them an image keeps, and the grid on which they are exact."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mixcore.api import ConfigError

__all__ = ["cell_side", "cells_by_draw", "cells_on_units"]


def cell_side(cell: int | None, patch: int | None, height: int, width: int) -> int:
    """Side in pixels of a cell that holds whole patches, of `patch` pixels a side (None: any cell does).

    Without `cell` a quarter of the image's shorter side, rounded up to whole patches: 64 of 224 pixels for patches of
    16, 56 for those of 14. ConfigError for a cell that cuts patches, and for one that covers a whole image.
    """
    whole = patch or 1
    side = _up(max(min(height, width) // 4, 1), whole) if cell is None else cell
    if side % whole:
        raise ConfigError(
            f"cell = {side} cuts the network's patches of {whole}x{whole} pixels, whose tokens would show both images; "
            f"choose a multiple of {whole}, such as cell = {_up(side, whole)}"
        )
    if side >= max(height, width):
        raise ConfigError(
            f"cells of {side} pixels leave one in an image of {height}x{width}, so that nothing is mixed; choose a "
            f"cell below {max(height, width)} that is a multiple of the network's patches ({whole} pixels)"
        )
    return side


def _up(value: int, step: int) -> int:
    return -(-value // step) * step


def cells_by_draw(draws: Tensor, count: int, rows: int, columns: int) -> Tensor:
    """Exactly `count` cells of each image, any of them equally likely: bool [N,rows,columns], true where it is kept.

    `draws` [N,rows·columns] are uniform numbers; the smallest are kept (step 3 of the method).
    """
    kept = draws.argsort(1).argsort(1) < count
    return kept.view(-1, rows, columns)


def cells_on_units(cells: Tensor, side: int, height: int, width: int) -> Tensor:
    """Cells [N,rows,columns] of `side` pixels on the coarsest grid that divides the image and cuts at their borders.

    [N,height/u,width/v] with u = gcd(side, height) and v = gcd(side, width): 7x7 for cells of 64 in 224 pixels, where
    the last row and column of cells is half as large.
    """
    for axis, size in ((1, height), (2, width)):
        unit = math.gcd(side, size)
        of_unit = torch.arange(size // unit, device=cells.device) * unit // side
        cells = cells.index_select(axis, of_unit)
    return cells
