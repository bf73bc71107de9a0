"""TL-Align, the mixer: "Token-Label Alignment for Vision Transformers", ICCV 2023, arXiv 2210.06455."""

from __future__ import annotations

import math

import attrs
from attrs.validators import ge, gt, lt, optional
from torch import Generator, Tensor

from mixcore.api import (
    Box,
    BoxRule,
    Mix,
    Probe,
    Step,
    beta,
    box_around,
    draw_partners,
    hookimpl,
    pasted,
    patch_side,
    send,
    token_grid,
    uniforms,
)

__all__ = ["TokenAligned", "on_pixels"]


def on_pixels(box: Box, grid: tuple[int, int], height: int, width: int) -> Box:
    """A box of tokens in pixels.

    Where the grid does not divide the image, some tokens are a pixel larger than others, as in `cells_to_pixels`.
    """
    (rows, columns), (top, bottom, left, right) = grid, box
    return Box(
        -(-top * height // rows), -(-bottom * height // rows), -(-left * width // columns), -(-right * width // columns)
    )


@attrs.define(eq=False, kw_only=True)
class TokenAligned:
    """TL-Align's mix: CutMix whose box, one per batch, is made of whole tokens of the network."""

    role = "mix"
    provides = frozenset({"mask"})
    suggests = {"labels": "tla_labels"}

    alpha: float = attrs.field(default=1.0, validator=[gt(0), lt(math.inf)])
    """Beta(alpha, alpha) gives the share of the image that the box leaves, before it is cut to whole tokens."""
    patch: int | None = attrs.field(default=None, validator=optional(ge(1)))
    """Pixels a side of a token; absent: those of a ViT's patches, and for other networks 14 tokens a side."""
    full_cut: bool = False
    """Boxes of an odd side keep all its tokens; false, as published: an odd side loses one."""

    @hookimpl
    def generate_mix(self, images: Tensor, probe: Probe, step: Step, rng: Generator) -> Mix:
        """The batch with a box of its reverse pasted; labels are weighted by area until the label policy sees them."""
        height, width = images.shape[-2:]
        grid = token_grid(patch_side(probe.model) if self.patch is None else self.patch, height, width)
        vertical, horizontal = uniforms(2, rng=rng).tolist()
        rule: BoxRule = "full" if self.full_cut else "legacy"
        tokens = box_around(beta(self.alpha, rng), (vertical, horizontal), *grid, rule)
        partner = send(draw_partners("flip", images.shape[0], rng), images.device)
        return pasted(images, partner, on_pixels(tokens, grid, height, width), overwrite=step.may_overwrite)
