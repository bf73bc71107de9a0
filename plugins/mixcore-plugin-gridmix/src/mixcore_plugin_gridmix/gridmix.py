"""GridMix: "GridMix: Strong Regularization through Local Context Mapping", Pattern Recognition 109, 2021.

The lattice of holes of the public implementation, which the published benchmark ran.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, TypeAlias, TypeVar

import attrs
import torch
from attrs.validators import ge, le, lt
from torch import Generator, Tensor

from mixcore.api import (
    Mix,
    beta_per_sample,
    crossings,
    crossings_mask,
    draw_partners,
    happens,
    hookimpl,
    range_of_shares,
    select_pixels,
    send,
    uniforms,
    unmixed,
)
from mixcore_plugin_gridmix.lattice import hole_lines, lattice_lam, lattices, one_lattice, windows

__all__ = ["GridMix", "gridmix"]

Range: TypeAlias = float | tuple[float, float]
"""One number, or from and to."""
Draws = TypeVar("Draws", float, Tensor)


def gridmix(images: Tensor, partner: Tensor, lattice: Tensor) -> Mix:
    """The partner's pixels in the holes of a lattice (steps 6 to 8 of the method).

    `images` [N,C,H,W], `partner` int64 [N] and `lattice` int64 [n,2,4], as `lattices` gives it, on their device: n = N,
    or 1 for a lattice that all images share. The label weight is the share of the image outside the holes.
    """
    count, _, height, width = images.shape
    rows, columns = hole_lines(lattice, max(height, width)).unbind(1)
    lines = rows[:, :height], columns[:, :width]
    masks = crossings_mask(*lines).expand(count, 1, height, width)
    lam = lattice_lam(lattice, height, width).expand(count)
    return Mix.pair(select_pixels(images, partner, crossings(*lines)), partner, lam, masks)


def ends(value: Range | Sequence[float]) -> tuple[float, float]:
    """From and to of a range; of one number, itself twice."""
    return (value, value) if isinstance(value, int | float) else (value[0], value[1])


def within(low: float, high: float) -> Any:
    """Validator for attrs: a number, or two with the first not above the second, in (low, high]."""

    def check(instance: object, attribute: attrs.Attribute[Any], value: Range) -> None:  # noqa: ARG001
        first, last = ends(value)
        if not (low < first <= last <= high and last < math.inf):
            upper = "" if high == math.inf else f" and at most {high:g}"
            raise ValueError(
                f"{attribute.name!r} must be a number above {low:g}{upper}, or two such as [low, high] with low <= "
                f"high, found {value}"
            )

    return check


@attrs.define(eq=False, kw_only=True)
class GridMix:
    """GridMix: a regular lattice of holes, inside a window of each image, shows another one."""

    role = "mix"
    provides = frozenset({"mask"})

    alpha: float = attrs.field(default=0.2, validator=[ge(0), lt(math.inf)])
    """Beta(alpha, alpha) gives the share that a hole leaves of its cell; 0 turns mixing off."""
    lam_range: tuple[float, float] | None = attrs.field(default=None, validator=range_of_shares)
    """That share uniform in this range, such as [0.1, 0.9], in place of `alpha`."""
    n_holes: tuple[int, int] = attrs.field(default=(2, 6), validator=within(0, math.inf))
    """Holes side by side in the window, a whole number from the first to the second; at most one for two columns."""
    hole_aspect: Range = attrs.field(default=1.0, validator=within(0, math.inf))
    """Height over width of a cell and its hole: a number, or uniform between two."""
    crop_area: Range = attrs.field(default=(0.5, 1.0), validator=within(0, 1))
    """Share of the image's area that the window has: a number, or uniform between two."""
    crop_aspect: Range = attrs.field(default=(0.5, 2.0), validator=within(0, math.inf))
    """Height over width of the window: a number, or uniform between two; sides are clamped to the image's."""
    prob: float = attrs.field(default=1.0, validator=[ge(0), le(1)])
    """Chance that a batch is mixed, one draw per batch."""
    per_sample: bool = False
    """One lattice per image instead of one for the batch."""

    @hookimpl
    def generate_mix(self, images: Tensor, rng: Generator) -> Mix:
        """The batch with holes; the batch itself where mixing is off or `prob` was missed."""
        if (self.alpha == 0 and self.lam_range is None) or not happens(self.prob, rng):
            return unmixed(images)
        count, _, height, width = images.shape
        partner = send(draw_partners("permutation", count, rng), images.device)
        lattice = self._draw_lattices(count if self.per_sample else 1, height, width, rng)
        return gridmix(images, partner, send(lattice, images.device))

    def _draw_lattices(self, count: int, height: int, width: int, rng: Generator) -> Tensor:
        """Lattices [count,2,4] int64 on the CPU."""
        lam = self._draw_lam(count, rng)
        draws = uniforms(6, count, rng=rng)
        first, last = self.n_holes
        if count == 1:
            number, area, aspect, down, across, cell = draws[:, 0].tolist()
            return one_lattice(
                between(self.crop_area, area),
                between(self.crop_aspect, aspect),
                (down, across),
                first + int(number * (last - first + 1)),
                between(self.hole_aspect, cell),
                lam.item(),
                height,
                width,
            )
        number, area, aspect, down, across, cell = draws
        places = torch.stack((down, across), 1)
        starts, sizes = windows(between(self.crop_area, area), between(self.crop_aspect, aspect), places, height, width)
        holes = first + (number * (last - first + 1)).long()
        return lattices(starts, sizes, holes, between(self.hole_aspect, cell), lam)

    def _draw_lam(self, count: int, rng: Generator) -> Tensor:
        """The share that a hole leaves of its cell: [count] float64 on the CPU."""
        if self.lam_range is None:
            return beta_per_sample(self.alpha, count, rng)
        return between(self.lam_range, uniforms(count, rng=rng))


def between(value: Range, draws: Draws) -> Draws:
    """Uniform draws in [0, 1), float64 [n] or one number, brought to a range."""
    low, high = ends(value)
    return low + (high - low) * draws
