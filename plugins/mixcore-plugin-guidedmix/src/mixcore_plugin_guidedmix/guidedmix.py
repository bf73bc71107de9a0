"""GuidedMixup: "GuidedMixup: An Efficient Mixup Strategy Guided by Saliency Maps", AAAI 2023, arXiv 2306.16612."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

import attrs
import torch
from attrs.validators import ge, in_, le, lt, optional
from torch import Generator, Tensor

from mixcore.api import (
    Mix,
    Probe,
    Saliency,
    Step,
    as_saliency,
    blend,
    draw_partners,
    gaussian_blur,
    gradient_magnitude,
    happens,
    hookimpl,
    resize_maps,
    send,
    unmixed,
)
from mixcore_plugin_guidedmix.pairing import Distance, greedy_cycle, map_distances

__all__ = ["GuidedMix", "guided_masks", "guidedmix", "saliency_shares"]

NOTHING_SALIENT = 1e-12
"""Share of saliency below which a pixel is salient in neither image."""


@torch.no_grad()
def saliency_shares(saliency: Tensor, height: int, width: int, size: int = 7, sigma: float = 3.0) -> Tensor:
    """The share of each pixel in an image's saliency, [N,height,width] float32 >= 0 with sum 1 (step 2 of the method).

    `saliency` [N,h,w] >= 0 is enlarged bilinearly and smoothed by a Gaussian of `size` taps, `sigma` pixels wide. Zeros
    where it sums to 0 or to no number.
    """
    maps = gaussian_blur(resize_maps(saliency, height, width), size, sigma)
    total = maps.sum((1, 2), keepdim=True)
    return torch.where(total > 0, maps / total, 0.0)


@torch.no_grad()
def guided_masks(shares: Tensor, partner: Tensor) -> Tensor:
    """Weight of the image's own pixels, [N,1,H,W] float32: its share of the saliency of both (step 4).

    `shares` [N,H,W] >= 0 as :func:`saliency_shares` gives them, `partner` int64 [N]. One half where neither is salient.
    """
    both = shares + shares.index_select(0, partner)
    return torch.where(both < NOTHING_SALIENT, 0.5, shares / both)[:, None]


def guidedmix(images: Tensor, partner: Tensor, shares: Tensor, overwrite: bool = False, **rest: Any) -> Mix:
    """Each pixel in proportion to the saliency of the two images there (steps 4 to 6).

    `images` [N,C,H,W], `partner` int64 [N] and `shares` [N,H,W] on one device. The label weight is the mean of the
    mask. `overwrite` writes into `images`; else they are left alone. `rest` goes to the Mix.
    """
    masks = guided_masks(shares, partner)
    mixed = blend(images, partner, masks, overwrite=overwrite)
    return Mix.pair(mixed, partner, masks.mean((1, 2, 3)), masks, **rest)


def _odd_and_wide(instance: object, attribute: attrs.Attribute[Any], value: tuple[int, float]) -> None:  # noqa: ARG001
    """Validator for attrs: an odd number of taps and a finite width above 0."""
    if len(value) != 2 or value[0] < 1 or value[0] % 2 == 0 or not 0 < value[1] < math.inf:
        raise ValueError(
            f"{attribute.name!r} must be an odd number of pixels and a width above 0, such as [7, 3.0]; found "
            f"{list(value)}"
        )


def _gradient_at_hand(mixer: GuidedMix, attribute: attrs.Attribute[Any], value: float) -> None:
    if value > 0 and mixer.saliency.name != "input_grad":
        raise ValueError(
            f"{attribute.name} > 0 takes the loss of the unmixed batch from the pass for the input gradient, found "
            f'saliency = {mixer.saliency.name!r}; set it to "input_grad", or {attribute.name} = 0'
        )


@attrs.define(eq=False, kw_only=True)
class GuidedMix:
    """GuidedMixup: each pixel by the saliency of both images there, with partners that are salient elsewhere."""

    role = "mix"
    spec_version = (1, 2)
    provides = frozenset({"mask"})
    contract = {"looking": {"clean_lam": 0.0}}

    saliency: Saliency = attrs.field(default=Saliency("spectral_residual"), converter=as_saliency)
    """Where saliency comes from: any plugin of that role; "input_grad" is the paper's other one."""
    pairing: Literal["greedy", "random"] = attrs.field(default="greedy", validator=in_(("greedy", "random")))
    """Partners: a cycle from each image to the one most unlike it in where it is salient, or a random permutation."""
    prob: float | None = attrs.field(default=None, validator=optional([ge(0), le(1)]))
    """Chance that a batch is mixed, one draw per batch; absent: 0.8 with "input_grad", else 0.5."""
    blur: tuple[int, float] = attrs.field(default=(7, 3.0), validator=_odd_and_wide)
    """The Gaussian that smoothes saliency: taps a side and standard deviation, in pixels."""
    distance: Distance = attrs.field(default="l2", validator=in_(("l2", "l1", "cosine")))
    """How greedy pairing measures two maps of saliency against each other."""
    clean_lam: float = attrs.field(default=0.0, validator=[ge(0), lt(math.inf), _gradient_at_hand])
    """Weight of the loss of the unmixed batch, which the pass for "input_grad" then gives as a training pass."""

    @hookimpl
    def generate_mix(self, images: Tensor, labels: Tensor, probe: Probe, step: Step, rng: Generator) -> Mix:
        """The batch blended by saliency; the batch itself where `prob` was missed."""
        # one draw for all processes: a look that trains is one that they take together
        if not happens(self._chance(), step.shared_rng("guidedmix prob")):
            return unmixed(images)
        saliency, losses = self._look(images, labels, probe)
        height, width = images.shape[-2:]
        shares = saliency_shares(saliency, height, width, *self.blur)
        if self.pairing == "greedy":
            partner = greedy_cycle(map_distances(shares, self.distance))
        else:
            partner = send(draw_partners("permutation", images.shape[0], rng), images.device)
        return guidedmix(images, partner, shares, overwrite=step.may_overwrite, losses=losses)

    def _chance(self) -> float:
        if self.prob is not None:
            return self.prob
        return 0.8 if self.saliency.name == "input_grad" else 0.5

    def _look(self, images: Tensor, labels: Tensor, probe: Probe) -> tuple[Tensor, Mapping[str, Tensor]]:
        """Saliency [N,h,w], and the clean term where it is wanted."""
        if self.clean_lam == 0:
            return probe.saliency(self.saliency, images, labels), {}
        gradient, loss = probe.input_gradient_and_loss(images, labels)
        return gradient_magnitude(gradient), {"clean": self.clean_lam * loss}
