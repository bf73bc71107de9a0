"""The step that AutoMix and SAMix share: a block learns to mix pairs from the loss of a momentum copy."""

from __future__ import annotations

from collections.abc import Mapping

import attrs
import torch
from attrs.validators import ge, in_, le, optional
from torch import Generator, Tensor, nn

from mixcore.api import Mix, Probe, Step, beta, blend, happens, hookimpl, send
from mixcore_plugin_automix.block import Draw, MixBlock
from mixcore_plugin_automix.clean import clean_view
from mixcore_plugin_automix.generator import judged, settle_terms
from mixcore_plugin_automix.masks import (
    MASK_LOSSES,
    MaskLoss,
    Upsample,
    adjust_masks,
    mask_loss,
    mix_by_mask,
    upsample_fits,
)
from mixcore_plugin_automix.momentum import MomentumMix, block_of, one_of
from mixcore_plugin_automix.options import non_negative, positive, share
from mixcore_plugin_automix.partners import draw_pairing
from mixcore_plugin_automix.schedules import MASK_SCHEDULES, MaskSchedule, mask_weight

__all__ = ["LearnedMix"]


@attrs.define(eq=False, kw_only=True)
class LearnedMix(MomentumMix):
    """What AutoMix and SAMix have in common; they bring the block."""

    alpha: float = attrs.field(default=2.0, validator=positive())
    """Beta(alpha, alpha) gives both ratios of a batch: one for training the block, one for training the network."""
    upsample_learning: tuple[Upsample, ...] | None = attrs.field(default=None, validator=optional(upsample_fits))
    """How the masks are enlarged that the block learns by alone; absent: as `upsample`."""
    mask_loss: MaskLoss = attrs.field(default="l1", validator=in_(MASK_LOSSES))
    """What is asked of masks: "l1", "l1_variance", "l2_variance" or "sparsity"."""
    mask_weight: float = attrs.field(default=0.1, validator=non_negative())
    """Weight of the mask loss."""
    mask_margin: float = attrs.field(default=0.1, validator=non_negative())
    """How far the mean of the masks may be from lam at no cost."""
    mask_schedule: MaskSchedule = attrs.field(default="constant", validator=in_(MASK_SCHEDULES))
    """Of that weight: "constant", "cosine" to 0, or "cosine_compounding", gone after a few percent (reproduction)."""
    mask_adjust: float = attrs.field(default=0.0, validator=share())
    """Chance that the network's masks of a batch are rescaled to have lam as their mean."""
    lam_margin: float = attrs.field(default=0.08, validator=[ge(0), le(0.5)])
    """Where lam is this near to 0 or 1, the network's batch is plain Mixup."""
    no_repeat: bool = False
    """Draw partners again, up to ten times, until no image is its own."""
    head_one_mix: bool = False
    """Train the one-hot head on Mixup (0.8) or CutMix (1.0), drawn per batch, in place of the clean batch."""
    mixed_weight: float = attrs.field(default=1.0, validator=non_negative())
    """Weight of the network's loss on mixed images."""
    clean_weight: float = attrs.field(default=1.0, validator=non_negative())
    """Weight of the one-hot head's loss; 0 saves its forward, and the head."""
    generator_weight: float = attrs.field(default=1.0, validator=non_negative())
    """Weight of the block's classification loss; 0 saves its forward."""

    @property
    def has_one_hot_head(self) -> bool:
        """Whether its loss weighs anything."""
        return bool(self.clean_weight)

    def build_block(self, channels: int) -> MixBlock:
        """The block for maps of that many channels."""
        raise NotImplementedError

    def pair_call(self, partner: Tensor, lam: float) -> Draw:
        """The call as it is drawn, without noise."""
        return Draw(lam=lam, partner=partner, upsample=self.upsample[0])

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
        """The batch mixed by the block's masks, with the block's own losses and the clean view beside it."""
        block = block_of(modules)
        assert isinstance(block, MixBlock)
        noise = step.device_rng("dropout") if block.noisy else None
        learns, serves = self._draw(images, rng, noise)
        _, projected = self.look(images, probe, block, train=True)
        height, width = images.shape[-2:]
        learning, serving = block.masks(projected, learns, serves, (height, width))
        weight = mask_weight(self.mask_weight, self.mask_schedule, step.iteration, step.iterations)
        terms = {"mask": weight * mask_loss(self.mask_loss, learning, learns.lam, self.mask_margin)}
        if self.generator_weight and self.classifies(step):
            learnt = Mix.pair(mix_by_mask(images, learns.partner, learning), learns.partner, learns.lam)
            terms["generator"] = self.generator_weight * judged(learnt, labels, probe, "k")[0]
        losses = settle_terms(terms, learning, block, probe)
        mixed, mask = self._serve(images, serving, serves, rng)
        views: tuple[Mix, ...] = ()
        if self.clean_weight:
            views = (clean_view(images, "one", self.clean_weight, self.head_one_mix, rng),)
        return Mix.pair(mixed, serves.partner, serves.lam, mask, scale=self.mixed_weight, views=views, losses=losses)

    def _draw(self, images: Tensor, rng: Generator, noise: Generator | None) -> tuple[Draw, Draw]:
        """What the block learns from, and what it serves the network with: two ratios, two permutations."""
        lams = beta(self.alpha, rng), beta(self.alpha, rng)
        pairings = [
            draw_pairing(images.shape[0], rng, no_repeat=self.no_repeat, shift=learning) for learning in (True, False)
        ]
        modes = self.upsample_learning or self.upsample, self.upsample
        learns, serves = (
            Draw(lam=lam, partner=send(pairing, images.device), upsample=one_of(choices, rng), noise=noise)
            for lam, pairing, choices in zip(lams, pairings, modes, strict=True)
        )
        return learns, serves

    def _serve(self, images: Tensor, masks: Tensor, draw: Draw, rng: Generator) -> tuple[Tensor, Tensor]:
        """The network's images and their masks."""
        if happens(self.mask_adjust, rng):
            masks = adjust_masks(masks, draw.lam)
        if min(draw.lam, 1 - draw.lam) <= self.lam_margin:
            masks = torch.full((1, 1, 1, 1), draw.lam, dtype=torch.float32, device=images.device)
            masks = masks.expand(images.shape[0], 1, 1, 1)
            return blend(images, draw.partner, draw.lam), masks
        return mix_by_mask(images, draw.partner, masks), masks
