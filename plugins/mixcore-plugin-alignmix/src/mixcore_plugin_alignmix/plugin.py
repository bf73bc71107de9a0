"""AlignMix: "AlignMixup: Improving Representations by Interpolating Aligned Features", CVPR 2022, arXiv 2103.15375."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import attrs
import torch
from attrs.validators import ge, gt, in_, le, lt
from torch import Generator, Tensor, nn

from mixcore.api import (
    Mix,
    Probe,
    Step,
    beta,
    blended_at,
    draw_partners,
    early_stages,
    happens,
    hookimpl,
    mixed_at,
    permute_features,
    unmixed,
)
from mixcore_plugin_alignmix.align import align, transport
from mixcore_plugin_alignmix.positions import Layout

__all__ = ["AlignMix"]

FEATURES = "features"


@attrs.define(eq=False, kw_only=True)
class AlignMix:
    """AlignMix: the last feature maps of two images are mixed, after one was aligned to the other; or plain Mixup."""

    role = "mix"

    alpha: float = attrs.field(default=2.0, validator=[ge(0), lt(math.inf)])
    """Ratios come from Beta(alpha, alpha), one per batch: large values lie near 1/2, 1 is uniform, 0: no mixing."""
    prob: float = attrs.field(default=1.0, validator=[ge(0), le(1)])
    """Chance that a batch is mixed, one draw per batch."""
    p_align: float = attrs.field(default=0.5, validator=[ge(0), le(1)])
    """Chance that a batch is mixed by aligned features; the others are mixed plainly."""
    plain: Literal["mixup", "manifoldmix"] = attrs.field(default="mixup", validator=in_(("mixup", "manifoldmix")))
    """What plain mixing is: Mixup of the images, or Manifold Mixup at one of `layers`."""
    layers: tuple[int | str, ...] = attrs.field(default=(0, 1, 2), validator=early_stages)
    """Stages of `plain = "manifoldmix"`, one is drawn: 0 the input, k the output of stage k, or a module's name."""
    eps: float = attrs.field(default=0.1, validator=[gt(0), lt(math.inf)])
    """Entropic weight: the smaller, the harder is each position assigned to one other."""
    max_iter: int = attrs.field(default=100, validator=ge(1))
    """Most rounds of Sinkhorn's iteration."""
    tol: float = attrs.field(default=0.1, validator=[ge(0), lt(math.inf)])
    """Rounds end where the batch's mean of the summed change of the row duals is below it; 0: all are run."""

    @property
    def stages(self) -> tuple[int | str, ...]:
        """Where it mixes inside the network."""
        inner = tuple(layer for layer in self.layers if layer) if self._draws_layer else ()
        return (*inner, FEATURES) if self.p_align else inner

    @property
    def contract(self) -> dict[str, bool]:
        """Aligning moves what it mixes."""
        return {"own_pixels": False, "partner_pixels": False} if self.p_align else {}

    @property
    def _draws_layer(self) -> bool:
        return self.plain == "manifoldmix" and self.p_align < 1

    @hookimpl
    def generate_mix(self, images: Tensor, probe: Probe, step: Step, rng: Generator) -> Mix:
        """Images whose features are to be aligned and mixed, or plainly mixed ones; the batch where `prob` missed."""
        stage = self._draw_stage(step)
        if self.alpha == 0 or not happens(self.prob, rng):
            return attrs.evolve(unmixed(images), stage=stage)
        lam = beta(self.alpha, rng)
        order = draw_partners("permutation", images.shape[0], rng)
        if stage != FEATURES:
            return blended_at(stage, images, order, lam, overwrite=step.may_overwrite)
        return mixed_at(stage, images, order, lam, self._aligned(probe.model, lam, to_own=happens(0.5, rng)))

    def _draw_stage(self, step: Step) -> int | str | None:
        """The same on all processes and in all groups; None for the input."""
        rng = step.shared_rng("alignmix stage")
        if happens(self.p_align, rng):
            return FEATURES
        if not self._draws_layer:
            return None
        index = torch.randint(len(self.layers), (), generator=rng, device="cpu")
        return self.layers[int(index)] or None

    def _aligned(self, model: nn.Module, lam: float, *, to_own: bool) -> Callable[..., Tensor]:
        """From features as the network gives them to the mixed ones, in the same layout and dtype."""
        layout = Layout.of(model)

        def aligned(features: Tensor, partner: Tensor, inverse: Tensor) -> Tensor:
            others = permute_features(features, partner, inverse)
            own, other = layout.vectors(features), layout.vectors(others)
            mixed = align(own, other, self._plan(own, other), lam, to_own=to_own)
            # class and register tokens have no place that they could be moved to
            prefix = torch.lerp(others[:, : layout.prefix], features[:, : layout.prefix], lam)
            return layout.restored(mixed, prefix, features)

        return aligned

    def _plan(self, own: Tensor, other: Tensor) -> Tensor:
        return transport(own, other, eps=self.eps, max_iter=self.max_iter, tol=self.tol)
