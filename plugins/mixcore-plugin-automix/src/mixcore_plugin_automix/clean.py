"""The forward that trains the one-hot head: the clean batch, or a plain mix of it."""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from mixcore.api import (
    Mix,
    beta,
    blend,
    box_around,
    box_lam,
    box_mask,
    draw_partners,
    happens,
    paste_box,
    send,
    uniforms,
)

__all__ = ["clean_view"]

MIXUP_ALPHA, CUTMIX_ALPHA = 0.8, 1.0


def clean_view(images: Tensor, head: str, scale: float, mixed: bool, rng: Generator) -> Mix:
    """A view of the batch for `head`, its loss times `scale`; `mixed`: Mixup or CutMix of it, with the same chance."""
    if not mixed:
        return Mix.clean(images, head=head, scale=scale)
    count, _, height, width = images.shape
    partner = send(draw_partners("permutation", count, rng), images.device)
    if happens(0.5, rng):
        lam = beta(MIXUP_ALPHA, rng)
        mask = torch.full((1, 1, 1, 1), lam, device=images.device).expand(count, 1, 1, 1)
        return Mix.pair(blend(images, partner, lam), partner, lam, mask, head=head, scale=scale)
    vertical, horizontal = uniforms(2, rng=rng).tolist()
    box = box_around(beta(CUTMIX_ALPHA, rng), (vertical, horizontal), height, width)
    mask = box_mask(box, height, width, images.device).expand(count, 1, height, width)
    mixed_images = paste_box(images, partner, box)
    return Mix.pair(mixed_images, partner, box_lam(box, height, width), mask, head=head, scale=scale)
