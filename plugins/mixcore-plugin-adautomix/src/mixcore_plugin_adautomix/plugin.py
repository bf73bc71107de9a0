"""AdAutoMix: "Adversarial AutoMixup", ICLR 2024, arXiv 2312.11954."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import attrs
import torch
from attrs.validators import ge, in_, le, lt
from mixcore_plugin_automix import (
    LearnedBlock,
    MomentumMix,
    Upsample,
    block_of,
    judged,
    positive,
    settle_terms,
    share,
    upsample_fits,
)
from torch import Generator, Tensor, nn

from mixcore.api import Mix, Probe, Step, hookimpl
from mixcore_plugin_adautomix.block import AdAutoMixBlock
from mixcore_plugin_adautomix.objective import generator_objective, similarity
from mixcore_plugin_adautomix.sources import SourcesDraw, combine, draw_sources

__all__ = ["AdAutoMix"]


@attrs.define(eq=False, kw_only=True)
class AdAutoMix(MomentumMix):
    """AdAutoMix: several images mixed by learnt masks, which make them easy and hard in turn for a momentum copy."""

    contract = {"lam_is_mask_mean": False, "pixels_follow_lam": False, "stages": 3}

    alpha: float = attrs.field(default=1.0, validator=positive())
    """Beta(alpha, alpha) gives each source a number, and these over their sum the ratios; of two it gives the ratio."""
    mix_samples: int = attrs.field(default=3, validator=ge(2))
    """Images that are mixed to one."""
    is_random: bool = False
    """Draw how many in every iteration, from 2 to `mix_samples`."""
    beta_ratio: float = attrs.field(default=0.3, validator=share())
    """Of the block's adversarial loss: this share is the classification loss, the rest the cosine of logits."""
    mixup_ratio: float = attrs.field(default=0.5, validator=[ge(0), lt(1)])
    """Of more than two images: weight of the loss on plain mixes, taken from the clean batch's; 0 saves a forward."""
    adv_interval: int = attrs.field(default=2, validator=ge(1))
    """The block's loss is adversarial in one of so many iterations, beginning with the first."""
    cos_sign: int = attrs.field(default=1, validator=in_((1, -1)))
    """1: adversarial steps drive logits of mixed images away from their sources' (as trained); -1: towards them."""
    lam_margin: float = attrs.field(default=0.03, validator=[ge(0), le(0.5)])
    """Where the ratio of the first source is this near to 0 or 1, the network's batch is a plain mix."""
    upsample: tuple[Upsample, ...] = attrs.field(default=("bilinear",), validator=upsample_fits)
    """How masks are enlarged: "nearest", "bilinear"; of several, one is drawn at each call of the block."""
    lam_concat: bool = False
    """Tell the block each image's ratio, as one more channel of the map; without it masks do not depend on it."""
    att_norm: Literal["none", "batch"] = attrs.field(default="none", validator=in_(("none", "batch")))
    """What queries and keys pass before their ReLU: "batch" is BatchNorm."""

    @property
    def find_unused_parameters(self) -> bool:
        """The block has no loss at all in iterations that are switched off."""
        return 0 < self.switch_off < 1

    def build_block(self, channels: int) -> LearnedBlock[SourcesDraw]:
        """AdAutoMix's block."""
        return AdAutoMixBlock(
            channels,
            reduction=self.reduction,
            lam_concat=self.lam_concat,
            batch_norm=self.att_norm == "batch",
            layer_norm=self.layer_norm,
        )

    def pair_call(self, partner: Tensor, lam: float) -> SourcesDraw:
        """The block's call for each image and its partner."""
        own = torch.arange(partner.shape[0], device=partner.device)
        return SourcesDraw(lams=(lam, 1 - lam), sources=(own, partner), upsample=self.upsample[0])

    @hookimpl
    def generate_mix(
        self,
        images: Tensor,
        labels: Tensor,
        probe: Probe,
        modules: Mapping[str, nn.Module],
        step: Step,
        rng: Generator,
    ) -> Mix:
        """The batch mixed by the block's masks; beside it the block's own loss, the clean view, and a plain mix."""
        samples, block = self._samples(step), block_of(modules)
        learns, serves = draw_sources(images.shape[0], samples, self.alpha, self.upsample, rng, images.device)
        clean, projected = self.look(images, probe, block, train=True)
        height, width = images.shape[-2:]
        learning, serving = block.masks(projected, learns, serves, (height, width))
        losses: Mapping[str, Tensor] = {}
        if self.classifies(step):
            learnt = learns.mix(combine(learns.rows(images), learning.split(1, 1)), learning)
            loss, logits = judged(learnt, labels, probe, "k")
            adversarial = step.iteration % self.adv_interval == 0
            if adversarial:
                cosine = similarity(logits, clean.logits, learns.sources, learns.lams)
                loss = generator_objective(loss, cosine, self.beta_ratio, self.cos_sign)
            losses = settle_terms({"adversarial" if adversarial else "cooperative": loss}, learning, block, probe)
        return self._serve(images, serves, serving, losses)

    def _samples(self, step: Step) -> int:
        """How many images are mixed; the same on all processes and in all groups."""
        if not self.is_random:
            return self.mix_samples
        rng = step.shared_rng("mix_samples")
        return int(torch.randint(2, self.mix_samples + 1, (), generator=rng, device="cpu"))

    def _serve(self, images: Tensor, draw: SourcesDraw, masks: Tensor, losses: Mapping[str, Tensor]) -> Mix:
        """What the network is fed: the clean batch, of more than two images their plain mix, and the masked one."""
        rows = draw.rows(images)
        linear = self.mixup_ratio if len(rows) > 2 else 0.0
        views = [Mix.clean(images, head="one", scale=1 - linear)]
        if linear:
            views.append(draw.mix(combine(rows, draw.lams), scale=linear))
        if min(draw.lams[0], 1 - draw.lams[0]) <= self.lam_margin:
            return draw.mix(combine(rows, draw.lams), views=tuple(views), losses=losses)
        return draw.mix(combine(rows, masks.split(1, 1)), masks, views=tuple(views), losses=losses)
