"""Saliency by a look at the trained network."""

from __future__ import annotations

import attrs
from torch import Tensor

from mixcore.api import Probe, hookimpl, saliency_needs, saliency_stages

__all__ = ["Attention", "ClassActivation", "Feature", "InputGradient"]


@attrs.define(eq=False, kw_only=True)
class InputGradient:
    """Root mean square over channels of the gradient of the run's loss at the image, one value per pixel."""

    role = "saliency"
    spec_version = (1, 2)
    contract = {"looking": {"train": False}}

    train: bool = False
    """Look at the network as it trains: BatchNorm by the batch, whose statistics then move at the look too."""

    @hookimpl
    def map_saliency(self, images: Tensor, labels: Tensor, probe: Probe) -> Tensor:
        """[N,H,W], from one forward and one backward."""
        return probe.saliency("input_grad", images, labels, train=self.train)


@attrs.define(eq=False, kw_only=True)
class Feature:
    """Energy of the last stage before the final norm: the sum over channels of its squares, one value per position."""

    role = "saliency"
    spec_version = (1, 2)
    needs = saliency_needs("feature")
    stages = saliency_stages("feature")

    @hookimpl
    def map_saliency(self, images: Tensor, labels: Tensor, probe: Probe) -> Tensor:
        """[N,h,w], from one forward."""
        return probe.saliency("feature", images, labels)


@attrs.define(eq=False, kw_only=True)
class ClassActivation:
    """What each position adds to the logit of the image's own class, where that is positive."""

    role = "saliency"
    spec_version = (1, 2)
    needs = saliency_needs("class_activation")
    accepts = frozenset({"class", "soft", "multi_label"})

    @hookimpl
    def map_saliency(self, images: Tensor, labels: Tensor, probe: Probe) -> Tensor:
        """[N,h,w], from one forward."""
        return probe.saliency("class_activation", images, labels)


@attrs.define(eq=False, kw_only=True)
class Attention:
    """Attention of the last block: the class token's to each patch or, without one, what each patch receives."""

    role = "saliency"
    spec_version = (1, 2)
    needs = saliency_needs("attention")

    @hookimpl
    def map_saliency(self, images: Tensor, labels: Tensor, probe: Probe) -> Tensor:
        """[N,h,w], from one forward."""
        return probe.saliency("attention", images, labels)
