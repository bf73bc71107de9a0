"""Which images become one, and how their pixels do. Letters: S sources of a mixed image."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import attrs
import torch
from mixcore_plugin_automix import Call, Upsample, one_of
from torch import Generator, Tensor

from mixcore.api import Mix, beta, draw_partners, send, take_rows

__all__ = ["SourcesDraw", "combine", "draw_sources", "shares_of"]


@attrs.frozen(eq=False, kw_only=True)
class SourcesDraw(Call):
    """A call of the block for any number of sources."""

    lams: tuple[float, ...]
    """The ratio of each source, for the whole batch."""
    sources: tuple[Tensor, ...]
    """For each source the row of the batch in every mixed image, int64 [N]."""

    def rows(self, images: Tensor) -> list[Tensor]:
        """The images [N,C,H,W] of each source, in the order of the mixed images."""
        return [take_rows(images, rows) for rows in self.sources]

    def mix(self, images: Tensor, masks: Tensor | None = None, **rest: Any) -> Mix:
        """The mixed `images` with these sources and ratios; `masks` [N,S,H,W], None: plain ones, the ratios."""
        lams = torch.stack([self._filled(images, lam) for lam in self.lams], 1)
        masks = lams[:, :, None, None] if masks is None else masks
        return Mix(images=images, sources=torch.stack(self.sources, 1), weights=lams, masks=masks[:, :-1], **rest)

    def _filled(self, images: Tensor, lam: float) -> Tensor:
        return torch.full((images.shape[0],), lam, dtype=torch.float32, device=images.device)


def shares_of(draws: Sequence[float]) -> tuple[float, ...]:
    """The draws r_i >= 0 over their sum; equal shares where all are 0, as draws near 0 of a tiny alpha are."""
    total = math.fsum(draws)
    return tuple(draw / total if total else 1 / len(draws) for draw in draws)


def draw_sources(
    count: int, samples: int, alpha: float, upsample: tuple[Upsample, ...], rng: Generator, device: torch.device
) -> tuple[SourcesDraw, SourcesDraw]:
    """For a batch of `count` images what the block learns from, and what it serves the network with.

    Of two images: an image and its partner, with a ratio of its own for each of the two. Of more: independent
    permutations for all sources, none of which is the image itself by rule, and the same ratios r_i / sum r,
    r_i ~ Beta(alpha, alpha), for both.
    """
    if samples == 2:
        own = torch.arange(count, device="cpu")
        ratios: list[tuple[float, ...]] = [(lam, 1 - lam) for lam in (beta(alpha, rng), beta(alpha, rng))]
        rows: list[tuple[Tensor, ...]] = [(own, draw_partners("permutation", count, rng)) for _ in ratios]
    else:
        ratios = [shares_of([beta(alpha, rng) for _ in range(samples)])] * 2
        rows = [tuple(draw_partners("permutation", count, rng) for _ in range(samples)) for _ in ratios]
    learns, serves = (
        SourcesDraw(lams=lams, sources=tuple(send(one, device) for one in sources), upsample=one_of(upsample, rng))
        for lams, sources in zip(ratios, rows, strict=True)
    )
    return learns, serves


def combine(rows: Sequence[Tensor], shares: Sequence[Tensor | float]) -> Tensor:
    """sum_i share_i · rows_i, in the dtype of the images; a share is a number, or one per pixel [N,1,H,W].

    A share of exactly 1 beside zeros gives that image's own bits. The gradient flows to the shares alone.
    """
    kept = [share.to(rows[0].dtype) if isinstance(share, Tensor) else share for share in shares]
    mixed = rows[0] * kept[0]
    for row, share in zip(rows[1:], kept[1:], strict=True):
        mixed = torch.addcmul(mixed, row, share) if isinstance(share, Tensor) else torch.add(mixed, row, alpha=share)
    return mixed
