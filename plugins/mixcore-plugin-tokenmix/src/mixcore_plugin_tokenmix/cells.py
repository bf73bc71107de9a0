"""Which cells of a g x g grid of tokens are the partner's: drawn on the host, bool [g,g], True where it is pasted."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Generator, Tensor

__all__ = ["block_cells", "partner_tokens", "random_cells"]

TRIES = 10
"""Rectangles that are tried for one place; if none of them fits, the mask is done."""
OFFICIAL_TOKENS, OFFICIAL_EXTRA = 196, 14
"""A grid of 14 x 14 has 14 tokens of the partner beyond its share."""


def partner_tokens(tokens: int, ratio: float, extra: int | None = None) -> int:
    """How many of `tokens` are the partner's: int((1 - ratio) · tokens) + extra, at most all of them (step 2).

    Without `extra` it is 14 of 196, in proportion.
    """
    more = round(OFFICIAL_EXTRA * tokens / OFFICIAL_TOKENS) if extra is None else extra
    return min(tokens, int((1 - ratio) * tokens) + more)


def block_cells(grid: int, wanted: int, aspect: float, draws: Iterable[tuple[float, float, float, float]]) -> Tensor:
    """Rectangles until `wanted` cells are covered (step 3); never more than `wanted`, rarely a few less.

    `aspect` is the least height over width of a rectangle, and the inverse of the greatest. `draws` are uniform numbers
    in [0,1), four for each rectangle that is tried: area, aspect, top, left.
    """
    cells = torch.zeros(grid, grid, dtype=torch.bool, device="cpu")
    numbers, missing = iter(draws), wanted
    while missing > 0:
        for _ in range(TRIES):
            covered = _rectangle(cells, missing, math.log(aspect), next(numbers))
            if covered:
                break
        else:
            return cells
        missing -= covered
    return cells


def _rectangle(cells: Tensor, missing: int, log_aspect: float, draws: tuple[float, float, float, float]) -> int:
    """Set one rectangle if it covers new cells and not more than are missing; how many new ones it covers, or 0."""
    grid = cells.shape[0]
    area = 1 + draws[0] * (missing - 1)
    aspect = math.exp(log_aspect * (1 - 2 * draws[1]))
    height, width = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
    if height >= grid or width >= grid:
        return 0
    top, left = int(draws[2] * (grid - height + 1)), int(draws[3] * (grid - width + 1))
    inside = cells[top : top + height, left : left + width]
    new = height * width - int(inside.sum())
    if new > missing:
        return 0
    inside.fill_(True)
    return new


def random_cells(grid: int, wanted: int, rng: Generator) -> Tensor:
    """Exactly `wanted` cells anywhere."""
    cells = torch.zeros(grid * grid, dtype=torch.bool, device="cpu")
    cells[torch.randperm(grid * grid, generator=rng, device="cpu")[:wanted]] = True
    return cells.view(grid, grid)
