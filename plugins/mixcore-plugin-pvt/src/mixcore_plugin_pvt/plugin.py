"""The backbones `pvt_tiny` and `pvt_small`."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal

import attrs
from torch import nn

from mixcore.api import ConfigError, Task, hookimpl, load_weights
from mixcore_plugin_pvt.network import SMALLEST, PyramidVisionTransformer

__all__ = ["PVTSmall", "PVTTiny"]


@attrs.define(eq=False, kw_only=True)
class _Pyramid:
    role = "backbone"
    depths: ClassVar[tuple[int, ...]]

    init: Literal["default", "reference", "torch"] = attrs.field(
        default="default", validator=attrs.validators.in_(("default", "reference", "torch"))
    )
    """"default" and "reference": linears, positions, class token truncated normal 0.02. "torch": PyTorch's, those 0."""
    weights: str | None = None
    """File of weights to start from (torch or safetensors); a classifier of another shape starts anew."""
    drop_path_rate: float = attrs.field(default=0.0, validator=[attrs.validators.ge(0), attrs.validators.lt(1)])
    """Stochastic depth, linear over the blocks up to this rate in [0, 1)."""

    @hookimpl
    def build_backbone(self, task: Task) -> nn.Module:
        """The network, on the CPU, in train mode. ConfigError for images that are too small for it."""
        if min(task.image_size) < SMALLEST:
            height, width = task.image_size
            raise ConfigError(
                f"backbone: PVT takes images of {SMALLEST}x{SMALLEST} pixels or more, and those of [data] are "
                f"{height}x{width}; set [data] size, or choose another backbone"
            )
        network = PyramidVisionTransformer(
            self.depths,
            num_classes=task.num_classes,
            in_chans=task.in_channels,
            img_size=task.image_size,
            drop_path_rate=self.drop_path_rate,
        )
        if self.init != "torch":
            network.initialise()
        if self.weights is not None:
            load_weights(network, Path(self.weights), "backbone.weights")
        return network


@attrs.define(eq=False, kw_only=True)
class PVTTiny(_Pyramid):
    """PVT-Tiny, first version: 13,229,288 parameters at 1000 classes, 1.93 GMACs at 224."""

    depths: ClassVar[tuple[int, ...]] = (2, 2, 2, 2)


@attrs.define(eq=False, kw_only=True)
class PVTSmall(_Pyramid):
    """PVT-Small, first version: 24,485,864 parameters at 1000 classes."""

    depths: ClassVar[tuple[int, ...]] = (3, 4, 6, 3)
