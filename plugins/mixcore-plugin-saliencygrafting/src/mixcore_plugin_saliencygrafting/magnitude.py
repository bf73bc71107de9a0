"""The saliency of the specification to the letter: the sum over channels of |f|, where mixcore's "feature" has f²."""

from __future__ import annotations

import attrs
from torch import Tensor

from mixcore.api import Probe, hookimpl, saliency_needs, saliency_stages

__all__ = ["FeatureMagnitude"]


@attrs.define(eq=False, kw_only=True)
class FeatureMagnitude:
    """Magnitude of the last stage f before the final norm: the sum over channels of |f|, one value per position."""

    role = "saliency"
    spec_version = (1, 2)
    needs = saliency_needs("feature")
    stages = saliency_stages("feature")

    @hookimpl
    def map_saliency(self, images: Tensor, probe: Probe) -> Tensor:
        """[N,h,w], from one forward."""
        (last,) = self.stages
        return probe.look(images, stages=self.stages).stages[last].float().abs().sum(1)
