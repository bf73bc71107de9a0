"""The forward that trains the one-hot head: the clean batch, or a plain mix of it."""

from __future__ import annotations

from torch import Generator, Tensor

from mixcore.api import Mix, beta, blended, box_around, draw_partners, happens, pasted, send, uniforms

__all__ = ["clean_view"]

MIXUP_ALPHA, CUTMIX_ALPHA = 0.8, 1.0


def clean_view(images: Tensor, head: str, scale: float, mixed: bool, rng: Generator) -> Mix:
    """A view of the batch for `head`, its loss times `scale`; `mixed`: Mixup or CutMix of it, with the same chance."""
    if not mixed:
        return Mix.clean(images, head=head, scale=scale)
    partner = send(draw_partners("permutation", images.shape[0], rng), images.device)
    if happens(0.5, rng):
        return blended(images, partner, beta(MIXUP_ALPHA, rng), head=head, scale=scale)
    vertical, horizontal = uniforms(2, rng=rng).tolist()
    box = box_around(beta(CUTMIX_ALPHA, rng), (vertical, horizontal), *images.shape[-2:])
    return pasted(images, partner, box, head=head, scale=scale)
