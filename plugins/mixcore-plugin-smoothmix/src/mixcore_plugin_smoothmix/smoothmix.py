"""SmoothMix: "SmoothMix: a Simple Yet Effective Data Augmentation to Train Robust Classifiers", CVPR Workshops 2020."""

from __future__ import annotations

from typing import Any

import attrs
import torch
from attrs.validators import ge, le
from torch import Generator, Tensor

from mixcore.api import Mix, Step, blend, draw_partners, happens, hookimpl, send, uniforms, unmixed

__all__ = ["SmoothMix", "gaussians", "smoothmix"]

NARROWEST, WIDEST = 1e-6, 1e6
"""Widths, as parts of the height, at which float32 has long made the bump 0 or 1 everywhere."""


def gaussians(shifts: Tensor, sigmas: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """The two factors of each bump, [n,H] and [n,W] float32: G[i,j] = rows[i] · columns[j] (step 4 of the method).

    `shifts` [n,2] lead from the middle of the image to that of the bump (down, right), `sigmas` [n] are its width, both
    in pixels and on one device.
    """
    down, right = shifts.unbind(1)
    return _gaussian(down, sigmas, height), _gaussian(right, sigmas, width)


def _gaussian(shifts: Tensor, sigmas: Tensor, size: int) -> Tensor:
    """exp(-d²/2σ²) at each of `size` positions, d their distance to the middle plus the shift: [n,size] float32."""
    ends = ((1 - size) / 2, (1 + size) / 2)
    distances = torch.arange(*ends, dtype=torch.float32, device=shifts.device) - shifts[:, None]
    # divided before it is squared: the square of a narrow sigma would be 0
    return distances.div_(sigmas[:, None]).square_().mul_(-0.5).exp_()


def smoothmix(
    images: Tensor,
    partner: Tensor,
    shifts: Tensor,
    sigmas: Tensor,
    label_swap: bool = False,
    overwrite: bool = False,
) -> Mix:
    """The partner's pixels weighted by a Gaussian bump, the image's own by the rest (steps 4 to 6 of the method).

    `images` [N,C,H,W], `partner` int64 [N]; `shifts` [n,2] and `sigmas` [n] as in :func:`gaussians`, n = N or 1 for one
    bump that all images share; all on one device. The image's own label weighs the mean of its mask, or with
    `label_swap` that of the bump. `overwrite` writes into `images`; else they are left alone.
    """
    count, _, height, width = images.shape
    rows, columns = gaussians(shifts, sigmas, height, width)
    masks = 1 - rows[:, None, :, None] * columns[:, None, None, :]
    share = rows.mean(1) * columns.mean(1)  # the mean of an outer product
    lam = share if label_swap else 1 - share
    mixed = blend(images, partner, masks, overwrite=overwrite)
    return Mix.pair(mixed, partner, lam.expand(count), masks.expand(count, -1, -1, -1))


def _widths(instance: object, attribute: attrs.Attribute[Any], value: tuple[float, float]) -> None:  # noqa: ARG001
    """Validator for attrs: two widths that float32 can tell from 0 and from infinity, in order."""
    if not NARROWEST <= value[0] <= value[1] <= WIDEST:
        raise ValueError(
            f"{attribute.name!r} must be two widths [low, high], as parts of the height, with {NARROWEST} <= low "
            f"<= high <= {WIDEST}, such as [0.25, 0.5]; found {list(value)}"
        )


@attrs.define(eq=False, kw_only=True)
class SmoothMix:
    """SmoothMix: another image shines through a soft Gaussian bump of random place and width."""

    role = "mix"
    provides = frozenset({"mask"})

    sigma_range: tuple[float, float] = attrs.field(default=(0.25, 0.5), validator=_widths)
    """The bump's standard deviation is uniform in this range, in heights of the image, in both directions."""
    prob: float = attrs.field(default=1.0, validator=[ge(0), le(1)])
    """Chance that a batch is mixed, one draw per batch."""
    per_sample: bool = False
    """One bump per image instead of one for the batch."""
    label_swap: bool = False
    """Each label gets the other one's weight, as in the code of the OpenMixup benchmark."""

    @property
    def contract(self) -> dict[str, Any]:
        """Swapped labels are not the mean of the mask; the narrowest bump is 0 everywhere."""
        return {"lam_is_mask_mean": not self.label_swap, "extremes": {"sigma_range": [NARROWEST, NARROWEST]}}

    @hookimpl
    def generate_mix(self, images: Tensor, step: Step, rng: Generator) -> Mix:
        """The batch blended through bumps; the batch itself where `prob` was missed."""
        if not happens(self.prob, rng):
            return unmixed(images)
        count, _, height, width = images.shape
        partner = send(draw_partners("permutation", count, rng), images.device)
        bumps = send(self._draw_bumps(count if self.per_sample else 1, height, width, rng), images.device)
        return smoothmix(images, partner, bumps[:, :2], bumps[:, 2], self.label_swap, overwrite=step.may_overwrite)

    def _draw_bumps(self, count: int, height: int, width: int, rng: Generator) -> Tensor:
        """Shift down and right, in whole pixels, and sigma of each bump: [count,3] float32 on the CPU."""
        low, high = (height * share for share in self.sigma_range)
        draws = uniforms(count, 3, rng=rng)
        draws *= draws.new_tensor((height, width, high - low))
        draws[:, :2].floor_()
        draws += draws.new_tensor((-(height // 2), -(width // 2), low))
        return draws.float()
