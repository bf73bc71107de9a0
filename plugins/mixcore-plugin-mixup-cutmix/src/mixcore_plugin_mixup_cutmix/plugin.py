"""Mixup or CutMix: the switch of DeiT (arXiv 2012.12877) and of "ResNet strikes back" (arXiv 2110.00476)."""

from __future__ import annotations

import math
from typing import Any, Literal

import attrs
import torch
from attrs.validators import ge, in_, le, lt
from torch import Generator, Tensor

from mixcore.api import (
    Box,
    BoxRule,
    Mix,
    OptionValueError,
    Step,
    beta,
    beta_per_sample,
    box_around,
    boxes_around,
    boxes_of_sides,
    draw_partners,
    happens,
    hookimpl,
    range_of_shares,
    send,
    uniforms,
    unmixed,
)
from mixcore_plugin_mixup_cutmix.switch import Rows, mix_batch, mix_rows

__all__ = ["MixupCutMix"]

MinMax = tuple[float, float]
Mode = Literal["batch", "pair", "elem", "half"]


def _one_is_on(mixer: MixupCutMix, _: object, value: float) -> None:
    if value == 0 and mixer.mixup_alpha == 0 and mixer.cutmix_minmax is None:
        raise ValueError("mixup_alpha and cutmix_alpha are both 0, so nothing would be mixed; set one above 0")


@attrs.define(eq=False, kw_only=True)
class MixupCutMix:
    """Mixup or CutMix, never both: for each batch, pair or image one of the two is drawn."""

    role = "mix"

    mixup_alpha: float = attrs.field(default=0.8, validator=[ge(0), lt(math.inf)])
    """Beta(alpha, alpha) gives the ratio of a blend; 0: always CutMix."""
    cutmix_alpha: float = attrs.field(default=1.0, validator=[ge(0), lt(math.inf), _one_is_on])
    """Beta(alpha, alpha) gives the share of the image that a box leaves; 0: always Mixup."""
    cutmix_minmax: MinMax | None = attrs.field(default=None, validator=range_of_shares)
    """Box sides uniform in this range of the image's, such as [0.2, 0.8]; CutMix is then on and its lam the area."""
    prob: float = attrs.field(default=1.0, validator=[ge(0), le(1)])
    """Chance that a batch, pair or image is mixed."""
    switch_prob: float = attrs.field(default=0.5, validator=[ge(0), le(1)])
    """Chance of CutMix, where both are on."""
    mode: Mode = attrs.field(default="batch", validator=in_(("batch", "pair", "elem", "half")))
    """Who shares a draw: the batch; an image and its partner; nobody. "half": nobody, and half as many mixed images."""
    correct_lam: bool = True
    """Label weights from the area of a box as clipped by the image; false: the share that was drawn."""
    partner: Literal["flip", "permutation"] = attrs.field(default="flip", validator=in_(("flip", "permutation")))
    """Who is mixed with whom: the batch reversed, or at random."""
    box: BoxRule = attrs.field(default="full", validator=in_(("full", "legacy")))
    """An odd box keeps its last row and column ("full", timm from 1.0.30 on) or loses them ("legacy", all papers)."""

    @property
    def provides(self) -> frozenset[str]:
        """A mask that varies over the image, where CutMix has a turn."""
        return frozenset({"mask"}) if self._cutmix_share > 0 else frozenset()

    @property
    def _cutmix_share(self) -> float:
        """Chance of CutMix among the mixed."""
        if self.cutmix_alpha == 0 and self.cutmix_minmax is None:
            return 0.0
        return 1.0 if self.mixup_alpha == 0 else self.switch_prob

    @property
    def _box_alpha(self) -> float:
        return self.cutmix_alpha if self.cutmix_minmax is None else 1.0

    @property
    def _corrects(self) -> bool:
        return self.correct_lam or self.cutmix_minmax is not None

    @property
    def contract(self) -> dict[str, bool]:
        """Label weights that were drawn are not the mean of the mask; halves have half as many mixed images."""
        return {"lam_is_mask_mean": self._corrects, "keeps_rows": self.mode != "half"}

    @hookimpl
    def generate_mix(self, images: Tensor, step: Step, rng: Generator) -> Mix:
        """The mixed batch; the batch itself where `prob` was missed. OptionValueError for odd pairs and halves."""
        if self.mode == "batch":
            return self._mix_batch(images, step, rng)
        if self.mode in ("pair", "half") and images.shape[0] % 2:
            raise OptionValueError(
                f'mode = "{self.mode}" needs an even number of images, found {images.shape[0]}; choose an even batch '
                'size and drop_last = true, or mode = "elem"'
            )
        rows = self._draw_rows(images, rng)
        mix = mix_rows(images, rows, correct_lam=self._corrects, overwrite=step.may_overwrite)
        return _first_half(mix) if self.mode == "half" else mix

    def _mix_batch(self, images: Tensor, step: Step, rng: Generator) -> Mix:
        if not happens(self.prob, rng):
            return unmixed(images)
        pastes = happens(self._cutmix_share, rng)
        lam = beta(self._box_alpha if pastes else self.mixup_alpha, rng)
        if lam == 1:
            return unmixed(images)
        box = self._draw_box(lam, images, rng) if pastes else None
        partner = send(draw_partners(self.partner, images.shape[0], rng), images.device)
        return mix_batch(images, partner, lam, box, correct_lam=self._corrects, overwrite=step.may_overwrite)

    def _draw_box(self, lam: float, images: Tensor, rng: Generator) -> Box:
        height, width = images.shape[-2:]
        if self.cutmix_minmax is not None:
            draws = uniforms(1, 4, rng=rng)
            return Box(*boxes_of_sides(self.cutmix_minmax, draws, height, width, self.box)[0].tolist())
        vertical, horizontal = uniforms(2, rng=rng).tolist()
        return box_around(lam, (vertical, horizontal), height, width, self.box)

    def _draw_rows(self, images: Tensor, rng: Generator) -> Rows:
        """The draws of each image; images of a pair share them, and of a halved batch the second half is left alone."""
        count, _, height, width = images.shape
        partner, draw_of = self._pair_up(count, rng)
        draws = int(draw_of.max()) + 1
        pastes = uniforms(draws, rng=rng) < self._cutmix_share
        lam = torch.where(pastes, _betas(self._box_alpha, draws, rng), _betas(self.mixup_alpha, draws, rng))
        lam = torch.where(uniforms(draws, rng=rng) < self.prob, lam, 1.0)
        if self.cutmix_minmax is not None:
            boxes = boxes_of_sides(self.cutmix_minmax, uniforms(draws, 4, rng=rng), height, width, self.box)
        else:
            boxes = boxes_around(lam, uniforms(draws, 2, rng=rng), height, width, self.box)
        lam = lam[draw_of]
        if self.mode == "half":
            lam[count // 2 :] = 1
        return Rows(partner=partner, lam=lam, pastes=pastes[draw_of], boxes=boxes[draw_of])

    def _pair_up(self, count: int, rng: Generator) -> tuple[Tensor, Tensor]:
        """Partner [N] of each image, and the number [N] of the draw that is its own."""
        own = torch.arange(count, device="cpu")
        if self.mode == "elem":
            return draw_partners(self.partner, count, rng), own
        half = count // 2
        if self.mode == "half":
            return torch.cat((half + draw_partners(self.partner, half, rng), own[half:])), own
        order = own if self.partner == "flip" else draw_partners("permutation", count, rng)
        partner, draw_of = torch.empty_like(own), torch.empty_like(own)
        partner[order] = order.flip(0)
        draw_of[order] = torch.cat((own[:half], own[:half].flip(0)))
        return partner, draw_of


def _betas(alpha: float, count: int, rng: Generator) -> Tensor:
    """Draws [count] of Beta(alpha, alpha); ones for alpha = 0, which nobody takes."""
    return beta_per_sample(alpha, count, rng) if alpha > 0 else torch.ones(count, dtype=torch.float64, device="cpu")


def _first_half(mix: Mix) -> Mix:
    half = mix.images.shape[0] // 2
    parts: dict[str, Any] = {name: getattr(mix, name)[:half] for name in ("images", "sources", "weights", "masks")}
    return attrs.evolve(mix, **parts)
