"""SMMix: "Self-Motivated Image Mixing for Vision Transformers", ICCV 2023, arXiv 2212.12977.

N images, M mixed images (= N), T tokens, D features, K classes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

import attrs
import torch
from attrs.validators import ge, gt, in_, le, lt
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from mixcore.api import (
    LAST_STAGE,
    ForwardOutput,
    Mix,
    Part,
    Probe,
    Step,
    Targets,
    Task,
    attention_of,
    beta,
    blended,
    boxes_mask,
    draw_partners,
    energy_of,
    happens,
    head_of_positions,
    head_width,
    hookimpl,
    send,
    stage_shape,
    unmixed,
)
from mixcore_plugin_smmix.regions import paste_moved, places, region_means, side_range

__all__ = ["SMMix", "consistency", "smmix"]

Attn = Literal["received", "cls", "energy"]
TokenHead = Literal["shared", "separate"]
OWN_TOKENS, CLEAN_LOGITS = "smmix_own_tokens", "smmix_clean_logits"
"""Notes: which tokens [M,T] are the image's own, and the logits [M,K] of both clean images, blended."""
HEAD = "token_head"


def smmix(images: Tensor, partner: Tensor, attention: Tensor, side: int, overwrite: bool = False) -> Mix:
    """The partner's most attended square of `side` tokens in place of each image's least attended (steps 3 to 6).

    `images` [N,C,H,W], `partner` int64 [N] and `attention` [N,h,w] on their device. Where h and w divide the image the
    mask is on their grid; else on pixels, and what whole tokens leave of the image stays its own. A note says which
    tokens are the image's own. `overwrite` writes into `images`; else they are left alone.
    """
    height, width = images.shape[-2:]
    rows, columns = attention.shape[-2:]
    token = height // rows, width // columns
    size = side * token[0], side * token[1]
    to, source = places(attention, partner, side)
    mixed = paste_moved(images, partner, _scaled(to, token), _scaled(source, token), size, overwrite)
    own = boxes_mask(_boxes(to, (side, side)), rows, columns)
    fits = height % rows == 0 and width % columns == 0
    mask = own if fits else boxes_mask(_boxes(_scaled(to, token), size), height, width)
    lam = 1 - size[0] * size[1] / (height * width)
    return Mix.pair(mixed, partner, lam, mask, notes={OWN_TOKENS: own.flatten(1)})


def _scaled(places: Tensor, token: tuple[int, int]) -> Tensor:
    """Pixels [N,2] of tokens [N,2] that are `token` pixels high and wide."""
    return torch.stack((places[:, 0] * token[0], places[:, 1] * token[1]), 1)


def _boxes(corner: Tensor, size: tuple[int, int]) -> Tensor:
    """Boxes [N,4] (top, bottom, left, right) of a size, by their top left corners [N,2]."""
    top, left = corner.unbind(1)
    return torch.stack((top, top + size[0], left, left + size[1]), 1)


def consistency(logits: Tensor, clean: Tensor) -> Tensor:
    """KL(softmax(clean) || softmax(logits)) of rows [M,K], the mean over M: a scalar, at least 0 (step 8).

    `clean` are the blended logits of the clean images: logits are blended before the softmax.
    """
    return F.kl_div(logits.log_softmax(1), clean.log_softmax(1), reduction="batchmean", log_target=True)


def _below(mixer: SMMix, _: object, value: float) -> None:
    if value < mixer.min_ratio:
        raise ValueError(f"max_ratio = {value} is below min_ratio = {mixer.min_ratio}")


@attrs.define(eq=False, kw_only=True)
class SMMix:
    """The most attended square of the partner in place of the least attended one; both regions learn; Mixup in turn."""

    role = "mix"
    provides = frozenset({"mask"})
    accepts = frozenset({"class", "soft"})
    contract = {"partner_pixels": False, "extremes": {"mixup_alpha": 1e-6}}

    min_ratio: float = attrs.field(default=0.25, validator=[gt(0), lt(1)])
    """Least side of the square, as a share of the grid of tokens; one side per batch, uniform over whole tokens."""
    max_ratio: float = attrs.field(default=0.75, validator=[gt(0), lt(1), _below])
    """Greatest side of the square."""
    switch_prob: float = attrs.field(default=0.5, validator=[gt(0), le(1)])
    """Chance that a mixed batch is SMMix's; the others are Mixup's, without the two further losses."""
    mixup_alpha: float = attrs.field(default=0.8, validator=[gt(0), lt(math.inf)])
    """Beta(alpha, alpha) gives the ratio of a Mixup batch."""
    prob: float = attrs.field(default=1.0, validator=[ge(0), le(1)])
    """Chance that a batch is mixed, one draw per batch."""
    attn: Attn = attrs.field(default="received", validator=in_(("received", "cls", "energy")))
    """Where to look: what patches "received" in the last block, the class token's row, or the last stage's "energy"."""
    token_head: TokenHead = attrs.field(default="shared", validator=in_(("shared", "separate")))
    """The classifier of both regions: the network's own, or a second one that only training uses."""
    w_fine: float = attrs.field(default=1.0, validator=[ge(0), lt(math.inf)])
    """Weight of the loss of both regions' output tokens on their own labels."""
    w_con: float = attrs.field(default=1.0, validator=[ge(0), lt(math.inf)])
    """Weight of the divergence of the prediction from that of the clean images."""

    @property
    def needs(self) -> frozenset[str]:
        """What places squares, and the output tokens."""
        return frozenset({"tokens", "stages" if self.attn == "energy" else "attention"})

    @property
    def stages(self) -> tuple[int | str, ...]:
        """The last stage, for its energy."""
        return (LAST_STAGE,) if self.attn == "energy" else ()

    @property
    def find_unused_parameters(self) -> bool:
        """The second classifier is idle in Mixup batches."""
        return self._separate

    @property
    def _separate(self) -> bool:
        return self.token_head == "separate" and self.w_fine > 0

    @hookimpl
    def build_modules(self, model: nn.Module, task: Task) -> Mapping[str, Part]:
        """The second classifier, where asked for. ConfigError where the ratios leave no square in the grid."""
        side_range(min(stage_shape(model, "features", task)[1:]), self.min_ratio, self.max_ratio)
        return {HEAD: Part(module=nn.Linear(head_width(model, task), task.num_classes))} if self._separate else {}

    @hookimpl
    def generate_mix(self, images: Tensor, probe: Probe, step: Step, rng: Generator) -> Mix:
        """The batch mixed with itself reversed; the batch itself where `prob` was missed."""
        turns = step.shared_rng("smmix")
        if not happens(self.prob, turns):
            return unmixed(images)
        partner = send(draw_partners("flip", images.shape[0], rng), images.device)
        if not happens(self.switch_prob, turns):
            return blended(images, partner, beta(self.mixup_alpha, rng), overwrite=step.may_overwrite)
        clean, attention = self._look(images, probe)
        least, greatest = side_range(min(attention.shape[-2:]), self.min_ratio, self.max_ratio)
        side = int(torch.randint(least, greatest + 1, (), generator=rng, device="cpu"))
        mix = smmix(images, partner, attention, side, overwrite=step.may_overwrite)
        return attrs.evolve(mix, notes={**mix.notes, CLEAN_LOGITS: torch.lerp(clean[partner], clean, mix.lam[:, None])})

    def _look(self, images: Tensor, probe: Probe) -> tuple[Tensor, Tensor]:
        """Logits [N,K] of the clean images and where there is something to see [N,h,w], of the network as it stands."""
        if self.attn == "energy":
            output = probe.look(images, stages=(LAST_STAGE,))
            return output.logits, energy_of(output)
        output = probe.look(images, attention=True)
        return output.logits, attention_of(output, *images.shape[-2:], received=self.attn == "received")

    @hookimpl
    def extra_losses(
        self, mix: Mix, labels: Tensor, output: ForwardOutput, probe: Probe, modules: Mapping[str, nn.Module]
    ) -> Mapping[str, Tensor]:
        """`fine` and `consistency` (step 8); nothing in a batch of Mixup, or a clean one."""
        if CLEAN_LOGITS not in mix.notes:
            return {}
        losses = {}
        if self.w_fine:
            losses["fine"] = self.w_fine * self._fine(mix, labels, output, probe, modules)
        if self.w_con:
            losses["consistency"] = self.w_con * consistency(output.logits, mix.notes[CLEAN_LOGITS])
        return losses

    def _fine(
        self, mix: Mix, labels: Tensor, output: ForwardOutput, probe: Probe, modules: Mapping[str, nn.Module]
    ) -> Tensor:
        """The run's loss of both regions' mean tokens, each on its own label; the mean over regions and images."""
        means = region_means(output.tokens, mix.notes[OWN_TOKENS]).flatten(0, 1)
        with probe.autocast():
            head = modules.get(HEAD)
            logits = head_of_positions(probe.model, output.features, means, pre_logits=head is not None)
            if head is not None:
                logits = head(logits)
        sources = mix.sources.reshape(-1, 1)
        alone = torch.ones_like(sources, dtype=torch.float32)
        return probe.criterion(logits, Targets(labels=labels, sources=sources, weights=alone))
