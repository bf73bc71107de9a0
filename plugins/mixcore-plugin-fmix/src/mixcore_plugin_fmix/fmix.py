"""FMix: "FMix: Enhancing Mixed Sample Data Augmentation", arXiv 2002.12047."""

from __future__ import annotations

import math

import attrs
import torch
from attrs.validators import ge, in_, le, lt
from torch import Generator, Tensor

from mixcore.api import (
    Mix,
    Step,
    beta_per_sample,
    draw_partners,
    hookimpl,
    select_pixels,
    send,
    take_rows,
    uniforms,
    unmixed,
)
from mixcore_plugin_fmix.fields import Spectrum, fields, noise_shape
from mixcore_plugin_fmix.ranks import largest, ramps

__all__ = ["FMix", "fmix", "pixel_counts", "ramp_halves"]


def pixel_counts(lam: Tensor, draws: Tensor, pixels: int) -> Tensor:
    """How many of an image's `pixels` are its own: int64 [n] from `lam` and uniform `draws` [n] float64 (step 4).

    lam · pixels rounded up or down, each by half of the draws.
    """
    exact = lam * pixels
    return torch.where(draws < 0.5, exact.ceil(), exact.floor()).long()


def ramp_halves(lam: Tensor, max_soft: float, pixels: int) -> Tensor:
    """Ranks on either side of the border over which a mask fades: int64 [n] from `lam` [n] float64 (step 6)."""
    return (torch.minimum(lam, 1 - lam).clamp(max=max_soft) * pixels).long()


def fmix(
    images: Tensor,
    partner: Tensor,
    field: Tensor,
    counts: Tensor,
    halves: Tensor | None = None,
    lam: float | None = None,
) -> Mix:
    """The image's own pixels where its field is largest, its partner's elsewhere (steps 5 to 8 of the method).

    `images` [N,C,H,W]; `partner` int64 [N]; `field` [n,H,W] float32, of which only the order matters; `counts` int64
    [n], how many pixels are the image's own. n is N, or 1 for a mask that all images share. `halves` int64 [n] softens
    the border over so many ranks on either side of it. All on the device of the images. The label weight is the mean of
    the mask, counts/(H·W), or `lam` where given.
    """
    count, _, height, width = images.shape
    values = field.flatten(1)
    if halves is None:
        own = largest(values, counts).view(-1, 1, height, width)
        masks, mixed = own.float(), select_pixels(images, partner, own.logical_not())
    else:
        masks = ramps(values, counts, halves).view(-1, 1, height, width)
        others = take_rows(images, partner)
        mixed = torch.lerp(others, images, masks.to(images.dtype), out=others)
    weight = (counts.double() / (height * width)).float().expand(count) if lam is None else lam
    return Mix.pair(mixed, partner, weight, masks.expand(count, 1, height, width))


@attrs.define(eq=False, kw_only=True)
class FMix:
    """FMix: the mask is where random noise of low frequency is large, of organic shape and any area."""

    role = "mix"
    provides = frozenset({"mask"})

    alpha: float = attrs.field(default=1.0, validator=[ge(0), lt(math.inf)])
    """Beta(alpha, alpha) gives the share of the image's own pixels; 0 turns mixing off."""
    decay_power: float = attrs.field(default=3.0, validator=[ge(0), lt(math.inf)])
    """Amplitudes of the noise fall as 1/frequency^decay_power: the larger, the smoother the mask."""
    max_soft: float = attrs.field(default=0.0, validator=[ge(0), le(0.5)])
    """Share of the pixels on either side of the mask's border over which it fades, at most 0.5; 0: a hard border."""
    reformulate: bool = False
    """Beta(alpha+1, alpha) gives the share, and the image's own label counts alone."""
    spectrum: Spectrum = attrs.field(default="released", validator=in_(("released", "isotropic")))
    """"released": the noise of the published code, at most one cycle across; "isotropic": the paper's formula."""
    per_sample: bool = False
    """One mask per image instead of one for the batch."""

    @property
    def contract(self) -> dict[str, bool]:
        """With `reformulate` the label weight is 1 whatever the mask."""
        return {"lam_is_mask_mean": not self.reformulate}

    @hookimpl
    def generate_mix(self, images: Tensor, step: Step, rng: Generator) -> Mix:
        """The batch mixed by its masks; the batch itself where mixing is off."""
        if self.alpha == 0:
            return unmixed(images)
        count, _, height, width = images.shape
        masks, pixels, device = count if self.per_sample else 1, height * width, images.device
        partner = send(draw_partners("permutation", count, rng), device)
        lam = self._draw_lam(masks, rng)
        counts = send(pixel_counts(lam, uniforms(masks, rng=rng), pixels), device)
        halves = send(ramp_halves(lam, self.max_soft, pixels), device) if self.max_soft else None
        noise = self._draw_noise((masks, *noise_shape(height, width, self.spectrum)), step, rng)
        field = fields(send(noise, device), height, width, self.decay_power, self.spectrum)
        return fmix(images, partner, field, counts, halves, 1.0 if self.reformulate else None)

    def _draw_noise(self, shape: tuple[int, ...], step: Step, rng: Generator) -> Tensor:
        """Normal noise of this shape: a number or two per row of an image on the CPU, per pixel on the device."""
        source = rng if self.spectrum == "released" else step.device_rng("fmix")
        return torch.randn(shape, dtype=torch.float32, device=source.device, generator=source)

    def _draw_lam(self, count: int, rng: Generator) -> Tensor:
        """lam as drawn, [count] float64 on the CPU."""
        lam = beta_per_sample(self.alpha, count, rng)
        if not self.reformulate:
            return lam
        # the one of lam and 1 - lam that a label drawn by lam belongs to has the law Beta(alpha+1, alpha)
        return torch.where(uniforms(count, rng=rng) < lam, lam, 1 - lam)
