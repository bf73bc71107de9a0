"""Networks and heads of the methods whose block learns from a momentum copy of the network: parts, averages, scores."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from typing import Any

import attrs
import torch
from attrs.validators import ge, lt, optional
from torch import Generator, Tensor, nn

from mixcore.api import (
    ForwardOutput,
    Mix,
    Part,
    Probe,
    Step,
    Task,
    capabilities,
    happens,
    head_width,
    hookimpl,
    stage_shape,
)
from mixcore_plugin_automix.block import Call, LearnedBlock
from mixcore_plugin_automix.masks import Upsample, mix_by_mask, upsample_fits
from mixcore_plugin_automix.options import non_negative, share
from mixcore_plugin_automix.schedules import UNLEARNT, ema_momentum, first_weights_left, learning_momentum

__all__ = ["MomentumMix", "block_of", "one_of"]

BINARY = 0.1
"""Pixels whose mask is this near to 0 or 1 are logged as decided."""


@attrs.define(eq=False, kw_only=True)
class MomentumMix:
    """What methods have in common whose block learns from a momentum copy; they bring the block and the step.

    Parts: `block`; `k`, the momentum copy of the network with its own head; `one`, the head on clean images; `one_k`,
    its momentum copy.
    """

    role = "mix"
    spec_version = (1, 2)
    provides = frozenset({"mask"})
    suggests = {"predictor": "k_mix"}
    contract = {"lam_is_mask_mean": False, "stages": 3}

    stage: str | int = 3
    """Stage of the network whose map the block reads: a number, 3 the third, or a module's name."""
    layer_norm: bool = False
    """Normalise that map over its channels first, without learnt weights (published for Swin)."""
    reduction: int = attrs.field(default=2, validator=ge(1))
    """Channels of the map over channels of the attention inside the block."""
    upsample: tuple[Upsample, ...] = attrs.field(default=("nearest",), validator=upsample_fits)
    """How masks are enlarged: "nearest", "bilinear"; of several, one is drawn at each call of the block."""
    switch_off: float = attrs.field(default=0.0, validator=share())
    """Above 0: the share of iterations in which the block's classification loss is computed at all."""
    momentum: float = attrs.field(default=0.999, validator=share())
    """Share of the momentum copy that stays at each optimizer step; 1: it is never averaged."""
    momentum_end: float = attrs.field(default=0.999999, validator=share())
    """What that share has risen to, along a cosine, at the end of the run."""
    momentum_constant: float = attrs.field(default=0.1, validator=share())
    """Part of the run before it rises; 0: the first optimizer step copies the network."""
    block_lr: float | None = attrs.field(default=None, validator=optional(non_negative()))
    """The block's learning rate, without warm-up; absent: the run's."""
    block_min_lr: float | None = attrs.field(default=None, validator=optional(non_negative()))
    """Where the block's learning rate ends; absent: the run's."""
    block_momentum: float | None = attrs.field(default=None, validator=optional([ge(0), lt(1)]))
    """The block's momentum in the optimizer; absent: the run's."""
    block_weight_decay: float | None = attrs.field(default=None, validator=optional(non_negative()))
    """The block's weight decay; absent: the run's."""

    @property
    def needs(self) -> frozenset[str]:
        """A network that lists its stages, where the stage is a number; for the one-hot head one with a head apart."""
        stages = {"stages"} if isinstance(self.stage, int) else set()
        return frozenset(stages | ({"head"} if self.has_one_hot_head else set()))

    @property
    def has_one_hot_head(self) -> bool:
        """Whether a second head learns from the clean batch."""
        return True

    def build_block(self, channels: int) -> LearnedBlock[Any]:
        """The block for maps of that many channels."""
        raise NotImplementedError

    def pair_call(self, partner: Tensor, lam: float) -> Call:
        """What the block is told to mix each image with `partner` [N]; drawn is nothing."""
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
        if self.has_one_hot_head:
            one = _head(model, task)
            parts |= {"one": Part(module=one), "one_k": Part(module=copy.deepcopy(one), optimizer=None)}
        return parts

    def _block_optimizer(self) -> dict[str, float]:
        settings = {name: getattr(self, f"block_{name}") for name in ("lr", "min_lr", "momentum", "weight_decay")}
        return {name: value for name, value in settings.items() if value is not None}

    # --- what the steps have in common -------------------------------------------------------------------------------

    def look(
        self, images: Tensor, probe: Probe, block: LearnedBlock[Any], *, train: bool
    ) -> tuple[ForwardOutput, tuple[Tensor, ...]]:
        """The momentum copy's forward of the unmixed images, and what the block makes of its map for all calls."""
        output = probe.look(images, network="k", train=train, stages=(self.stage,))
        with probe.autocast():
            return output, block.project(output.stages[self.stage])

    def classifies(self, step: Step) -> bool:
        """Whether the block's classification loss is computed; the same on all processes and in all groups."""
        return not self.switch_off or happens(self.switch_off, step.shared_rng("switch_off"))

    @hookimpl
    def scalars(self, mix: Mix, modules: Mapping[str, nn.Module], step: Step) -> Mapping[str, float | Tensor]:
        """The masks' mean, its distance from lam, the share of decided pixels; momentum; terms dropped so far.

        Of the masks of source 0. Nothing of masks in a batch of plain Mixup: the block had no say in them.
        """
        counted: dict[str, float | Tensor] = {
            "momentum": self._momentum(step),
            "dropped": block_of(modules).dropped.clone(),
        }
        if mix.varying_masks is None:
            return counted
        mask = mix.varying_masks[:, :1]
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
        block = block_of(modules)
        _, projected = self.look(images, probe, block, train=False)
        height, width = images.shape[-2:]
        mask = block.preview(projected, self.pair_call(partner, lam), (height, width))[:, :1]
        return Mix.pair(mix_by_mask(images, partner, mask), partner, lam, mask)

    # --- after the optimizer step, and at evaluation -----------------------------------------------------------------

    @hookimpl
    def after_step(self, model: nn.Module, modules: Mapping[str, nn.Module], step: Step) -> None:
        """The momentum copies come a little nearer to what they copy: parameters only, buffers are their own."""
        if self.momentum >= 1:
            return
        pairs = [(modules["k"], model)]
        if self.has_one_hot_head:
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
        if self.has_one_hot_head:
            found |= {"k_one": (modules["k"], modules["one_k"]), "q_one": (model, modules["one"])}
        return found


def block_of(modules: Mapping[str, nn.Module]) -> LearnedBlock[Any]:
    """The block among a plugin's parts."""
    block = modules["block"]
    assert isinstance(block, LearnedBlock)
    return block


def one_of(choices: tuple[Upsample, ...], rng: Generator) -> Upsample:
    """One of them, each as likely; of a single one without a draw."""
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
