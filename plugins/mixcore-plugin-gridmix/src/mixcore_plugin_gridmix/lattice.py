"""Lattices of holes inside a window of the image, as whole numbers: int64 [n,2,4], for each axis, rows first,

(start, size, pitch, hole): the window's first line and its lines, the lines from one cell to the next, and those of a
hole, which lies at the beginning of its cell. The window cuts the last cells.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mixcore.api import OptionValueError

__all__ = ["hole_lines", "lattice_lam", "lattices", "one_lattice", "windows"]


def windows(area: Tensor, aspect: Tensor, places: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Starts and sizes of the windows, int64 [n,2] each, rows first (step 3 of the method).

    `area` [n], the share of the image, `aspect` [n], height over width, and uniform `places` [n,2] (down, across) are
    float64. Sides are clamped to the image's. OptionValueError where a window has less than two columns or no row.
    """
    across = ((height * width * area).floor() / aspect).sqrt().floor()
    sizes = torch.stack(((across * aspect).floor().clamp(max=height), across.clamp(max=width)), 1)
    _check_window(*sizes.amin(0).tolist(), height, width)
    free = torch.tensor([height, width], device="cpu") - sizes
    return (free * places).floor().long(), sizes.long()


def lattices(starts: Tensor, sizes: Tensor, holes: Tensor, aspect: Tensor, lam: Tensor) -> Tensor:
    """The lattices [n,2,4] in these windows (steps 4 and 5 of the method).

    `holes` int64 [n], how many lie side by side, at most one for two columns; `aspect` float64 [n], height over width
    of a cell; `lam` float64 [n], the share that holes leave of the images: a hole has a pixel at least and leaves its
    cell a row and a column.
    """
    columns = sizes[:, 1]
    across = (columns.double() / torch.minimum(holes, columns // 2)).ceil()
    pitch = torch.stack(((across * aspect).floor().clamp(min=2), across), 1)
    side = (pitch * (1 - lam).sqrt()[:, None]).floor()
    side = torch.minimum(side.clamp(min=1), pitch - 1)
    return torch.stack((starts, sizes, pitch.long(), side.long()), 2)


def one_lattice(
    area: float, aspect: float, place: tuple[float, float], holes: int, cell: float, lam: float, height: int, width: int
) -> Tensor:
    """The lattice [1,2,4] that :func:`windows` and :func:`lattices` give, from Python numbers.

    One lattice is a few numbers, and each tensor operation costs more than the whole formula.
    """
    across = float(math.floor(math.sqrt(math.floor(height * width * area) / aspect)))
    rows, columns = min(math.floor(across * aspect), height), min(int(across), width)
    _check_window(rows, columns, height, width)
    right = math.ceil(columns / min(holes, columns // 2))
    axes = []
    for length, size, at, pitch in (
        (height, rows, place[0], max(math.floor(right * cell), 2)),
        (width, columns, place[1], right),
    ):
        hole = min(max(math.floor(pitch * math.sqrt(1 - lam)), 1), pitch - 1)
        axes.append((math.floor((length - size) * at), size, pitch, hole))
    return torch.tensor([axes], device="cpu")


def _check_window(rows: float, columns: float, height: int, width: int) -> None:
    if columns < 2 or rows < 1:
        raise OptionValueError(
            f"a window of crop_area and crop_aspect in an image of {height}x{width} has {rows:.0f} rows and "
            f"{columns:.0f} columns; a lattice needs 1 and 2: raise crop_area, bring crop_aspect nearer to 1, or take "
            "larger images"
        )


def hole_lines(axes: Tensor, length: int) -> Tensor:
    """Lines of an image that holes cross, bool [...,length]; `axes` int64 [...,4], of axes of lattices (step 6)."""
    start, size, pitch, hole = axes[..., None].unbind(-2)
    line = torch.arange(length, device=axes.device) - start
    return (line >= 0) & (line < size) & (line.remainder(pitch) < hole)


def lattice_lam(lattice: Tensor, height: int, width: int) -> Tensor:
    """Share of each image outside the holes, [n] float32: the mean of its mask, from whole numbers (step 8)."""
    _, size, pitch, hole = lattice.unbind(2)
    lines = size.div(pitch, rounding_mode="floor") * hole + torch.minimum(size % pitch, hole)
    return (1 - lines.prod(1).double() / (height * width)).float()
