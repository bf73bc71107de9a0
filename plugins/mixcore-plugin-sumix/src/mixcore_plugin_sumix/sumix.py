"""SUMix as a label policy: corrected weights, and beside the loss a term that trains a second head.

N images of the batch, M mixed images, S sources, K classes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

import attrs
from attrs.validators import ge, in_, lt, optional
from torch import Tensor, nn

from mixcore.api import ForwardOutput, Mix, Part, Targets, Task, head_width, hookimpl
from mixcore_plugin_sumix.terms import corrected_weights, distances, signed_terms, uncertainty_loss, unit_softmax

__all__ = ["Reduction", "SUMix", "Semantic"]

Reduction = Literal["batch_mean", "per_sample"]
Semantic = Literal["signed", "distance"]

HEAD = "uncertain"


@attrs.define(eq=False, kw_only=True)
class SUMix:
    """Label weights corrected by what the network sees in the mix and in each image alone, and a learnt uncertainty."""

    role = "labels"
    accepts = frozenset({"class"})

    gama: float = attrs.field(default=0.5, validator=[ge(0), lt(math.inf)])
    """Weight of the uncertainty's loss; 0: none, and no second head."""
    is_norm: bool = True
    """Read uncertainty from a second head, in training only; false: the network's own logits take its place."""
    scale: float | None = attrs.field(default=None, validator=optional([ge(0.0), lt(math.inf)]))
    """Factor of the semantic terms; absent: the images of a process's batch, with "distance" 1; 0: weights stay."""
    semantic: Semantic = attrs.field(default="signed", validator=in_(("signed", "distance")))
    """What corrects weights: "signed" as the published code, or the "distance" of predictions (experimental)."""
    reduction: Reduction = attrs.field(default="batch_mean", validator=in_(("batch_mean", "per_sample")))
    """Corrected weights of an image: the mean over the batch, as the published code, or its own ("per_sample")."""

    @property
    def needs(self) -> frozenset[str]:
        """A network whose head can be run apart, for the second head beside it."""
        return frozenset({"head"} if self._has_head else ())

    @property
    def _has_head(self) -> bool:
        return self.is_norm and self.gama > 0

    @hookimpl
    def build_modules(self, model: nn.Module, task: Task) -> Mapping[str, Part]:
        """The second head."""
        if not self._has_head:
            return {}
        return {HEAD: Part(module=nn.Linear(head_width(model, task), task.num_classes))}

    @hookimpl
    def mix_labels(self, mix: Mix, labels: Tensor, output: ForwardOutput, clean: ForwardOutput) -> Targets:
        """The mix's sources with corrected weights; an unmixed image keeps its own."""
        classes = labels[mix.sources]
        if mix.sources.shape[1] == 1:
            return mix.targets(labels)
        terms = self._terms(mix, classes, output, clean)
        weights = corrected_weights(mix.weights, terms.gather(2, classes[:, :, None])[:, :, 0])
        if self.reduction == "batch_mean":
            weights = weights.mean(0, keepdim=True).expand_as(weights)
        return mix.targets(labels, weights)

    @hookimpl
    def extra_losses(
        self,
        mix: Mix,
        labels: Tensor,
        output: ForwardOutput,
        clean: ForwardOutput,
        modules: Mapping[str, nn.Module],
    ) -> Mapping[str, Tensor]:
        """The uncertainty's loss, with the mix's own weights, by the name `uncertainty`."""
        if not self.gama:
            return {}
        alone, mixed = clean.logits, output.logits
        if self._has_head:
            head = modules[HEAD]
            alone, mixed = (unit_softmax(head(one.pooled)) for one in (clean, output))
        classes = labels[mix.sources]
        terms = self._terms(mix, classes, output, clean)
        loss = uncertainty_loss(alone[mix.sources], mixed, terms, classes, mix.weights.detach())
        return {"uncertainty": self.gama * mix.scale * loss}

    @hookimpl
    def scalars(self, mix: Mix, targets: Targets) -> Mapping[str, Tensor]:
        """How far label weights are from the mix's own, the mean over images."""
        return {"corrected_by": (targets.weights - mix.weights.detach()).abs().amax(1).mean()}

    def _terms(self, mix: Mix, classes: Tensor, output: ForwardOutput, clean: ForwardOutput) -> Tensor:
        """The scaled semantic terms A [M,S,K], without a graph; a distance is the same for all classes."""
        mixed, alone = output.logits, clean.logits[mix.sources]
        if self.semantic == "distance":
            apart = distances(mixed, alone)[:, :, None].expand_as(alone)
            return apart if self.scale is None else self.scale * apart
        scale = mix.images.shape[0] if self.scale is None else self.scale
        return scale * signed_terms(mixed, alone, classes, mix.sources)
