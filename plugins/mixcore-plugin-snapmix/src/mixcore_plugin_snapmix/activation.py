"""The saliency of the method: class activation with its negative part, which mixcore's "class_activation" cuts off."""

from __future__ import annotations

import attrs
from torch import Tensor

from mixcore.api import Probe, hookimpl, saliency_needs

__all__ = ["ClassActivationShifted"]


@attrs.define(eq=False, kw_only=True)
class ClassActivationShifted:
    """What each position adds to the logit of the image's own class, above the position that adds least."""

    role = "saliency"
    spec_version = (1, 2)
    needs = saliency_needs("class_activation")
    accepts = frozenset({"class", "soft", "multi_label"})
    contract = {"looking": {"train": False}}

    train: bool = False
    """Look at the network as it trains: BatchNorm by the batch, whose statistics then move at the look too."""

    @hookimpl
    def map_saliency(self, images: Tensor, labels: Tensor, probe: Probe) -> Tensor:
        """[N,h,w], from one forward; 0 where the least is."""
        activation = probe.class_activation(images, labels, train=self.train)
        return activation - activation.amin((1, 2), keepdim=True)
