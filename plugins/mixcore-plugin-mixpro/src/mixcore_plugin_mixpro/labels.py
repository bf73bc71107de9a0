"""Progressive attention labelling, the label policy of MixPro (arXiv 2304.12043): attention counts as the net learns.

M mixed images, S sources, K classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import attrs
import torch
from attrs.validators import ge, in_, lt
from torch import Tensor
from torch.nn import functional as F

from mixcore.api import (
    LAST_STAGE,
    ForwardOutput,
    Mix,
    Targets,
    Task,
    attended_weights,
    attention_of,
    energy_of,
    hookimpl,
)
from mixcore_plugin_mixpro.mixpro import BY_DRAW

__all__ = ["MixProLabels", "similarity"]

Source = Literal["attention", "energy"]


def similarity(target: Tensor, logits: Tensor) -> Tensor:
    """Cosine of the target rows [M,K] and the predicted probabilities softmax(logits) [M,K]: [M] in (0,1] (step 7)."""
    return F.cosine_similarity(target, logits.softmax(1), dim=1).clamp(max=1)


@attrs.define(eq=False, kw_only=True)
class MixProLabels:
    """Label weights by attention as far as the prediction resembles the labels by area, and by area for the rest."""

    role = "labels"
    accepts = frozenset({"class", "soft"})

    source: Source = attrs.field(default="attention", validator=in_(("attention", "energy")))
    """"attention" of the last block: the class token's, or what patches receive; "energy" of the last stage."""
    smoothing: float = attrs.field(default=0.1, validator=[ge(0), lt(1)])
    """Smoothing in [0, 1) of the labels by area that the prediction is compared with; none other is smoothed by it."""
    smooth_loss: bool = False
    """Whether the loss may smooth these labels as it does others."""
    grad_through_sim: bool = False
    """Whether the prediction learns from how its likeness weighs the labels, as cross-entropy would tell it."""

    @property
    def needs(self) -> frozenset[str]:
        """A mask that varies over the image, and what the source reads of the backbone."""
        return frozenset({"mask", "attention" if self.source == "attention" else "stages"})

    @property
    def stages(self) -> tuple[int | str, ...]:
        """The last stage, for its energy."""
        return (LAST_STAGE,) if self.source == "energy" else ()

    @hookimpl
    def mix_labels(self, mix: Mix, labels: Tensor, output: ForwardOutput, task: Task) -> Targets:
        """The mix's sources by likeness, attention and area; its own weights without masks or over constant ones."""
        plain = mix.targets(labels)
        if not _has_cells(mix):
            return plain
        with torch.no_grad():
            by_attention = self._by_attention(mix, output)
            likeness = self._likeness(plain, output, task)
            weights = torch.lerp(mix.weights, by_attention, likeness)
        return attrs.evolve(mix.targets(labels, weights), smooth=self.smooth_loss)

    @hookimpl
    def extra_losses(self, mix: Mix, labels: Tensor, output: ForwardOutput, task: Task) -> Mapping[str, Tensor]:
        """`sim`: worth 0, with the gradient that cross-entropy has through the likeness of prediction and labels."""
        if not self.grad_through_sim or not _has_cells(mix):
            return {}
        plain = mix.targets(labels)
        with torch.no_grad():
            slope = self._by_attention(mix, output) - mix.weights
            slope = (slope * _source_losses(output.logits, plain)).sum(1)
        likeness = self._likeness(plain, output, task)[:, 0]
        return {"sim": (slope * (likeness - likeness.detach())).mean()}

    def _by_attention(self, mix: Mix, output: ForwardOutput) -> Tensor:
        """[M,S] share of the attention in the forward of the mixed images that falls on each source."""
        seen = energy_of(output) if self.source == "energy" else attention_of(output, *mix.images.shape[-2:])
        return attended_weights(mix.weights, mix.masks_on(*seen.shape[-2:]), seen, 0.0)

    def _likeness(self, plain: Targets, output: ForwardOutput, task: Task) -> Tensor:
        """[M,1] similarity of the prediction and the labels by area."""
        return similarity(plain.dense(task.num_classes, self.smoothing), output.logits)[:, None]


def _has_cells(mix: Mix) -> bool:
    """Whether masks vary over the image, of a mix that is not a turn of Mixup or CutMix between those of MaskMix."""
    return mix.varying_masks is not None and BY_DRAW not in mix.notes


def _source_losses(logits: Tensor, targets: Targets) -> Tensor:
    """Cross-entropy [M,S] with the label of each source."""
    log_probabilities = logits.log_softmax(1)
    if targets.labels.is_floating_point():
        return -torch.einsum("mk,msk->ms", log_probabilities, targets.labels.float()[targets.sources])
    return -log_probabilities.gather(1, targets.labels[targets.sources])
