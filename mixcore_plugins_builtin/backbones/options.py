"""Options that all builtin backbones have."""

from __future__ import annotations

from pathlib import Path

import attrs
from torch import nn

from mixcore.api import load_weights
from mixcore_plugins_builtin.backbones.initialise import Init, initialise

__all__ = ["BackboneOptions"]


@attrs.define(eq=False, kw_only=True)
class BackboneOptions:
    """How the network starts."""

    role = "backbone"

    init: Init = attrs.field(default="default", validator=attrs.validators.in_(("default", "reference", "torch")))
    """"default": timm's own, classifier Normal(0, 0.01). "reference": the benchmark's. "torch": PyTorch's."""
    weights: str | None = None
    """File of weights to start from (torch or safetensors); a classifier of another shape starts anew."""

    def start(self, network: nn.Module, *, init: Init | None = None, new_classifier: bool = True) -> nn.Module:
        """The network, initialised (as `init` or as the option says), then loaded from the file if there is one."""
        initialise(network, init or self.init, new_classifier=new_classifier)
        if self.weights is not None:
            load_weights(network, Path(self.weights), "backbone.weights")
        return network
