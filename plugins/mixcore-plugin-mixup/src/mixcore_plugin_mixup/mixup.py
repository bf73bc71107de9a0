"""Mixup: "mixup: Beyond Empirical Risk Minimization", ICLR 2018, arXiv 1710.09412."""

from __future__ import annotations

import math
from typing import Literal

import attrs
from attrs.validators import ge, in_, le, lt
from torch import Generator, Tensor

from mixcore.api import Mix, Step, beta, beta_per_sample, blended, draw_partners, happens, hookimpl, send, unmixed

__all__ = ["Mixup", "mixup"]


def mixup(images: Tensor, partner: Tensor, lam: float | Tensor, overwrite: bool = False) -> Mix:
    """Images lam·x + (1-lam)·x[partner] and labels weighted alike (steps 3 and 4 of the method).

    `images` [N,C,H,W]; `partner` int64 [N] and, where it is a tensor, `lam` [N] in [0,1] on the device of the images.
    lam = 1 gives x and lam = 0 gives x[partner], bit for bit. The mask is lam itself, at 1x1.
    `overwrite` writes into `images`; else they are left alone.
    """
    return blended(images, partner, lam, overwrite=overwrite)


@attrs.define(eq=False, kw_only=True)
class Mixup:
    """Mixup: each image is blended with another one by a ratio drawn from a Beta distribution."""

    role = "mix"

    alpha: float = attrs.field(default=1.0, validator=[ge(0), lt(math.inf)])
    """Ratios come from Beta(alpha, alpha): small values keep images nearly whole, 1 is uniform, 0 turns mixing off."""
    prob: float = attrs.field(default=1.0, validator=[ge(0), le(1)])
    """Chance that a batch is mixed, one draw per batch."""
    per_sample: bool = False
    """One ratio per image instead of one for the batch."""
    partner: Literal["permutation", "flip"] = attrs.field(default="permutation", validator=in_(("permutation", "flip")))
    """Who is mixed with whom: a random permutation of the batch, or the batch reversed."""

    @hookimpl
    def generate_mix(self, images: Tensor, step: Step, rng: Generator) -> Mix:
        """The blended batch; the batch itself where mixing is off or `prob` was missed."""
        if self.alpha == 0 or not happens(self.prob, rng):
            return unmixed(images)
        count, device = images.shape[0], images.device
        partner = send(draw_partners(self.partner, count, rng), device)
        if self.per_sample:
            lams = send(beta_per_sample(self.alpha, count, rng).float(), device)
            return mixup(images, partner, lams, overwrite=step.may_overwrite)
        return mixup(images, partner, beta(self.alpha, rng), overwrite=step.may_overwrite)
