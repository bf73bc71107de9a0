"""TokenMix, the mixer: "Rethinking Image Mixing for Data Augmentation in Vision Transformers", arXiv 2207.08409."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, Literal

import attrs
from attrs.validators import ge, gt, in_, le, lt, optional
from torch import Generator, Tensor

from mixcore.api import (
    Mix,
    Step,
    beta,
    blended,
    cells_to_pixels,
    draw_partners,
    happens,
    hookimpl,
    select_pixels,
    send,
    uniforms,
    unmixed,
)
from mixcore_plugin_tokenmix.cells import block_cells, partner_tokens, random_cells

__all__ = ["TokenMix", "tokenmix"]

MaskType = Literal["block", "random"]
AT_ONCE = 64
"""Rectangles whose numbers are drawn together; a mask of 14 x 14 tries about 14."""


def tokenmix(images: Tensor, partner: Tensor, cells: Tensor) -> Mix:
    """The partner's pixels in the `cells` bool [g,g] that are set, the same for all images (step 4).

    `images` [N,C,H,W], `partner` int64 [N] on their device, `cells` on the host. The mask is that of the grid where g
    divides the image evenly, else of its pixels; the label weight is its mean.
    """
    count, _, height, width = images.shape
    grid, own = cells.shape[0], ~cells
    if height % grid or width % grid:
        own = cells_to_pixels(own, height, width)
    lam = own.double().mean().item()
    own = send(own, images.device)
    theirs = cells_to_pixels(~own, height, width)[None, None]
    return Mix.pair(select_pixels(images, partner, theirs), partner, lam, own.float().expand(count, 1, *own.shape))


def _share_or_beta(_: object, attribute: attrs.Attribute[Any], value: float | str) -> None:
    if value != "beta" and not (isinstance(value, int | float) and 0 <= value <= 1):
        raise ValueError(f'{attribute.name} must be a share in [0,1] or "beta", found {value!r}')


@attrs.define(eq=False, kw_only=True)
class TokenMix:
    """TokenMix: rectangles of whole tokens are the partner's, one mask per batch; in turn with Mixup."""

    role = "mix"
    provides = frozenset({"mask"})
    suggests = {"labels": "tokenmix_labels", "loss": "bce"}
    contract = {"extremes": {"ratio": 1.0, "min_tokens": 0, "mixup_alpha": 1e-6}}

    ratio: float | Literal["beta"] = attrs.field(default=0.5, validator=_share_or_beta)
    """The image's own share of the tokens, before `min_tokens` are taken from it; "beta": uniform, drawn per batch."""
    min_tokens: int | None = attrs.field(default=None, validator=optional(ge(0)))
    """Tokens of the partner beyond its share; absent: 14 where there are 14 x 14, in proportion on other grids."""
    mask_type: MaskType = attrs.field(default="block", validator=in_(("block", "random")))
    """Where the partner's tokens are: in rectangles, or anywhere."""
    grid: int = attrs.field(default=14, validator=ge(1))
    """Tokens a side."""
    aspect: float = attrs.field(default=0.3, validator=[gt(0), le(1)])
    """Least height over width of a rectangle; the greatest is its inverse."""
    prob: float = attrs.field(default=1.0, validator=[ge(0), le(1)])
    """Chance that a batch is mixed, one draw per batch."""
    switch_prob: float = attrs.field(default=0.5, validator=[gt(0), le(1)])
    """Chance that a mixed batch is TokenMix's; the others are Mixup's."""
    mixup_alpha: float = attrs.field(default=0.8, validator=[gt(0), lt(math.inf)])
    """Beta(alpha, alpha) gives the ratio of a Mixup batch."""

    @hookimpl
    def generate_mix(self, images: Tensor, step: Step, rng: Generator) -> Mix:
        """The batch mixed with itself reversed; the batch itself where `prob` was missed."""
        if not happens(self.prob, rng):
            return unmixed(images)
        partner = send(draw_partners("flip", images.shape[0], rng), images.device)
        if not happens(self.switch_prob, rng):
            return blended(images, partner, beta(self.mixup_alpha, rng), overwrite=step.may_overwrite)
        return tokenmix(images, partner, self._cells(rng))

    def _cells(self, rng: Generator) -> Tensor:
        ratio = beta(1, rng) if isinstance(self.ratio, str) else self.ratio
        wanted = partner_tokens(self.grid**2, ratio, self.min_tokens)
        if self.mask_type == "random":
            return random_cells(self.grid, wanted, rng)
        return block_cells(self.grid, wanted, self.aspect, _fours(rng))


def _fours(rng: Generator) -> Iterator[tuple[float, float, float, float]]:
    """Uniform numbers, four at a time, without an end."""
    while True:
        yield from map(tuple, uniforms(AT_ONCE, 4, rng=rng).tolist())
