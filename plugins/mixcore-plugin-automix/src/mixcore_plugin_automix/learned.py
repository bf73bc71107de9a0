"""The step that AutoMix and SAMix share: a block learns to mix from the loss of a momentum copy of the network."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from typing import Any

import attrs
import torch
from attrs.validators import ge, gt, in_, le, lt, optional
from torch import Generator, Tensor, nn

from mixcore.api import (
    Mix,
    Part,
    Probe,
    Step,
    Task,
    beta,
    blend,
    capabilities,
    happens,
    head_width,
    hookimpl,
    send,
    stage_shape,
)
from mixcore_plugin_automix.block import Draw, MixBlock
from mixcore_plugin_automix.clean import clean_view
from mixcore_plugin_automix.generator import generator_loss, settle_terms
from mixcore_plugin_automix.masks import MASK_LOSSES, MaskLoss, Upsample, adjust_masks, mask_loss, mix_by_mask
from mixcore_plugin_automix.partners import draw_pairing
from mixcore_plugin_automix.schedules import (
    MASK_SCHEDULES,
    UNLEARNT,
    MaskSchedule,
    ema_momentum,
    first_weights_left,
    learning_momentum,
    mask_weight,
)

__all__ = ["LearnedMix", "upsample_fits"]

BINARY = 0.1
"""Pixels whose mask is this near to 0 or 1 are logged as decided."""


def upsample_fits(_: object, attribute: attrs.Attribute[Any], value: tuple[Upsample, ...] | None) -> None:
    """Validator of options that list ways of enlarging a mask."""
    if value is not None and not (value and set(value) <= {"nearest", "bilinear"}):
        raise ValueError(f'{attribute.name!r} must list "nearest", "bilinear" or both, found {list(value)}')


def _non_negative() -> Any:
    return [ge(0), lt(math.inf)]


def _share() -> Any:
    return [ge(0), le(1)]


@attrs.define(eq=False, kw_only=True)
class LearnedMix:
    """What AutoMix and SAMix have in common; they bring the block.

    Parts: `block`; `k`, the momentum copy of the network with its own head; `one`, the head on clean images; `one_k`,
    its momentum copy.
    """

    role = "mix"
    spec_version = (1, 2)
    provides = frozenset({"mask"})
    suggests = {"predictor": "k_mix"}
    contract = {"lam_is_mask_mean": False, "stages": 3}

    alpha: float = attrs.field(default=2.0, validator=[gt(0), lt(math.inf)])
    """Beta(alpha, alpha) gives both ratios of a batch: one for training the block, one for training the network."""
    stage: str | int = 3
    """Stage of the network whose map the block reads: a number, 3 the third, or a module's name."""
    layer_norm: bool = False
    """Normalise that map over its channels first, without learnt weights (published for Swin)."""
    reduction: int = attrs.field(default=2, validator=ge(1))
    """Channels of the map over channels of the attention inside the block."""
    upsample: tuple[Upsample, ...] = attrs.field(default=("nearest",), validator=upsample_fits)
    """How masks are enlarged: "nearest", "bilinear"; of several, one is drawn at each call of the block."""
    upsample_learning: tuple[Upsample, ...] | None = attrs.field(default=None, validator=upsample_fits)
    """The same for the masks that the block learns by alone; absent: as `upsample`."""
    mask_loss: MaskLoss = attrs.field(default="l1", validator=in_(MASK_LOSSES))
    """What is asked of masks: "l1", "l1_variance", "l2_variance" or "sparsity"."""
    mask_weight: float = attrs.field(default=0.1, validator=_non_negative())
    """Weight of the mask loss."""
    mask_margin: float = attrs.field(default=0.1, validator=_non_negative())
    """How far the mean of the masks may be from lam at no cost."""
    mask_schedule: MaskSchedule = attrs.field(default="constant", validator=in_(MASK_SCHEDULES))
    """Of that weight: "constant", "cosine" to 0, or "cosine_compounding", gone after a few percent (reproduction)."""
    mask_adjust: float = attrs.field(default=0.0, validator=_share())
    """Chance that the network's masks of a batch are rescaled to have lam as their mean."""
    lam_margin: float = attrs.field(default=0.08, validator=[ge(0), le(0.5)])
    """Where lam is this near to 0 or 1, the network's batch is plain Mixup."""
    switch_off: float = attrs.field(default=0.0, validator=_share())
    """Above 0: the share of iterations in which the block's classification loss is computed at all."""
    no_repeat: bool = False
    """Draw partners again, up to ten times, until no image is its own."""
    head_one_mix: bool = False
    """Train the one-hot head on Mixup (0.8) or CutMix (1.0), drawn per batch, in place of the clean batch."""
    mixed_weight: float = attrs.field(default=1.0, validator=_non_negative())
    """Weight of the network's loss on mixed images."""
    clean_weight: float = attrs.field(default=1.0, validator=_non_negative())
    """Weight of the one-hot head's loss; 0 saves its forward, and the head."""
    generator_weight: float = attrs.field(default=1.0, validator=_non_negative())
    """Weight of the block's classification loss; 0 saves its forward."""
    momentum: float = attrs.field(default=0.999, validator=_share())
    """Share of the momentum copy that stays at each optimizer step; 1: it is never averaged."""
    momentum_end: float = attrs.field(default=0.999999, validator=_share())
    """What that share has risen to, along a cosine, at the end of the run."""
    momentum_constant: float = attrs.field(default=0.1, validator=_share())
    """Part of the run before it rises; 0: the first optimizer step copies the network."""
    block_lr: float | None = attrs.field(default=None, validator=optional(_non_negative()))
    """The block's learning rate, without warm-up; absent: the run's."""
    block_min_lr: float | None = attrs.field(default=None, validator=optional(_non_negative()))
    """Where the block's learning rate ends; absent: the run's."""
    block_momentum: float | None = attrs.field(default=None, validator=optional([ge(0), lt(1)]))
    """The block's momentum in the optimizer; absent: the run's."""
    block_weight_decay: float | None = attrs.field(default=None, validator=optional(_non_negative()))
    """The block's weight decay; absent: the run's."""

    @property
    def needs(self) -> frozenset[str]:
        """A network that lists its stages, where the stage is a number; for the one-hot head one with a head apart."""
        return frozenset({"stages"} if isinstance(self.stage, int) else ()) | frozenset(
            {"head"} if self.clean_weight else ()
        )

    def build_block(self, channels: int) -> MixBlock:
        """The block for maps of that many channels."""
        raise NotImplementedError

    @hookimpl
    def check(self, iterations: int) -> list[str]:
        """Says where the run is too short for the momentum copy."""
        left = first_weights_left(iterations, self.momentum, self.momentum_end, self.momentum_constant)
        if left <= UNLEARNT:
            return []
        enough = learning_momentum(iterations)
        return [
            f"after {iterations} iterations the momentum copy still holds at least {math.floor(100 * left)} % of its "
            "first weights, so its predictors (k_mix and k_one) show little of what the network learns; train for more "
            f"epochs, or set momentum and momentum_end to {enough} or less, or score the network itself: "
            'eval.predictor = "model"'
        ]

    # --- parts -------------------------------------------------------------------------------------------------------

    @hookimpl
    def build_modules(self, model: nn.Module, task: Task) -> Mapping[str, Part]:
        """The block, sized by the map that the stage really gives, the momentum copies, and the one-hot head."""
        channels, _, _ = stage_shape(model, self.stage, task)
        parts = {
            "block": Part(module=self.build_block(channels), optimizer=self._block_optimizer()),
            "k": Part(module=copy.deepcopy(model), optimizer=None, stages=(self.stage,)),
        }
        if self.clean_weight:
            one = _head(model, task)
            parts |= {"one": Part(module=one), "one_k": Part(module=copy.deepcopy(one), optimizer=None)}
        return parts

    def _block_optimizer(self) -> dict[str, float]:
        settings = {name: getattr(self, f"block_{name}") for name in ("lr", "min_lr", "momentum", "weight_decay")}
        return {name: value for name, value in settings.items() if value is not None}

    # --- the iteration -----------------------------------------------------------------------------------------------

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
        block = _block(modules)
        noise = step.device_rng("dropout") if block.noisy else None
        learns, serves = self._draw(images, rng, noise)
        features = probe.look(images, network="k", train=True, stages=(self.stage,)).stages[self.stage]
        with probe.autocast():
            projected = block.project(features)
        height, width = images.shape[-2:]
        learning, serving = block.masks(projected, learns, serves, (height, width))
        weight = mask_weight(self.mask_weight, self.mask_schedule, step.iteration, step.iterations)
        terms = {"mask": weight * mask_loss(self.mask_loss, learning, learns.lam, self.mask_margin)}
        if self._classifies(step):
            loss = generator_loss(images, labels, learning, learns, probe, "k")
            terms["generator"] = self.generator_weight * loss
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
            Draw(lam=lam, partner=send(pairing, images.device), upsample=_one_of(choices, rng), noise=noise)
            for lam, pairing, choices in zip(lams, pairings, modes, strict=True)
        )
        return learns, serves

    def _classifies(self, step: Step) -> bool:
        """Whether the block's classification loss is computed; the same on all processes and in all groups."""
        if not self.generator_weight:
            return False
        return not self.switch_off or happens(self.switch_off, step.shared_rng("switch_off"))

    def _serve(self, images: Tensor, masks: Tensor, draw: Draw, rng: Generator) -> tuple[Tensor, Tensor]:
        """The network's images and their masks."""
        if happens(self.mask_adjust, rng):
            masks = adjust_masks(masks, draw.lam)
        if min(draw.lam, 1 - draw.lam) <= self.lam_margin:
            masks = torch.full((1, 1, 1, 1), draw.lam, dtype=torch.float32, device=images.device)
            masks = masks.expand(images.shape[0], 1, 1, 1)
            return blend(images, draw.partner, draw.lam), masks
        return mix_by_mask(images, draw.partner, masks), masks

    @hookimpl
    def scalars(self, mix: Mix, modules: Mapping[str, nn.Module], step: Step) -> Mapping[str, float | Tensor]:
        """The masks' mean, its distance from lam, the share of decided pixels; momentum; terms dropped so far.

        Nothing of masks in a batch of plain Mixup: the block had no say in them.
        """
        counted: dict[str, float | Tensor] = {
            "momentum": self._momentum(step),
            "dropped": _block(modules).dropped.clone(),
        }
        mask = mix.mask
        if mask is None or mask.shape[-2:] == (1, 1):
            return counted
        return {
            "mask_mean": mask.mean(),
            "mask_off": (mask.mean((1, 2, 3)) - mix.lam).abs().mean(),
            "mask_decided": ((mask < BINARY) | (mask > 1 - BINARY)).float().mean(),
            **counted,
        }

    @hookimpl
    def preview_mix(
        self, images: Tensor, partner: Tensor, lam: float, probe: Probe, modules: Mapping[str, nn.Module]
    ) -> Mix:
        """The block's masks at that ratio, everything in eval mode."""
        block = _block(modules)
        features = probe.look(images, network="k", stages=(self.stage,)).stages[self.stage]
        with probe.autocast():
            projected = block.project(features)
        height, width = images.shape[-2:]
        mask = block.preview(projected, Draw(lam=lam, partner=partner, upsample=self.upsample[0]), (height, width))
        return Mix.pair(mix_by_mask(images, partner, mask), partner, lam, mask)

    # --- after the optimizer step, and at evaluation -----------------------------------------------------------------

    @hookimpl
    def after_step(self, model: nn.Module, modules: Mapping[str, nn.Module], step: Step) -> None:
        """The momentum copies come a little nearer to what they copy: parameters only, buffers are their own."""
        if self.momentum >= 1:
            return
        pairs = [(modules["k"], model)]
        if self.clean_weight:
            pairs.append((modules["one_k"], modules["one"]))
        old: list[Tensor] = [parameter for copied, _ in pairs for parameter in copied.parameters()]
        new: list[Tensor] = [parameter for _, trained in pairs for parameter in trained.parameters()]
        torch._foreach_lerp_(old, new, 1 - self._momentum(step))

    def _momentum(self, step: Step) -> float:
        start, end, constant = self.momentum, self.momentum_end, self.momentum_constant
        return ema_momentum(step.iteration, step.iterations, start, end, constant)

    @hookimpl
    def predictors(
        self, model: nn.Module, modules: Mapping[str, nn.Module]
    ) -> Mapping[str, tuple[nn.Module, nn.Module | None]]:
        """The momentum copy with both heads, and the network with the one-hot head."""
        found: dict[str, tuple[nn.Module, nn.Module | None]] = {"k_mix": (modules["k"], None)}
        if self.clean_weight:
            found |= {"k_one": (modules["k"], modules["one_k"]), "q_one": (model, modules["one"])}
        return found


def _block(modules: Mapping[str, nn.Module]) -> MixBlock:
    block = modules["block"]
    assert isinstance(block, MixBlock)
    return block


def _one_of(choices: tuple[Upsample, ...], rng: Generator) -> Upsample:
    if len(choices) == 1:
        return choices[0]
    return choices[int(torch.randint(len(choices), (), generator=rng, device="cpu"))]


def _head(model: nn.Module, task: Task) -> nn.Linear:
    """A head like the network's own: Normal(0, 0.01), for transformers truncated Normal(0, 0.02), bias 0."""
    head = nn.Linear(head_width(model, task), task.num_classes)
    if "attention" in capabilities(model):
        nn.init.trunc_normal_(head.weight, std=0.02)
    else:
        nn.init.normal_(head.weight, std=0.01)
    nn.init.zeros_(head.bias)
    return head
