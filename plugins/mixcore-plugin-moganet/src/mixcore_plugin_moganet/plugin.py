"""The backbones `moganet_xtiny`, `moganet_tiny`, `moganet_small`, and `cifar_moganet_tiny` for small images."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal

import attrs
from torch import nn

from mixcore.api import Task, hookimpl, load_weights
from mixcore_plugin_moganet.network import MogaNet

__all__ = ["CifarMogaNetTiny", "MogaNetSmall", "MogaNetTiny", "MogaNetXTiny"]


@attrs.define(eq=False, kw_only=True)
class _Moga:
    role = "backbone"
    widths: ClassVar[tuple[int, ...]]
    depths: ClassVar[tuple[int, ...]]
    stem_stride: ClassVar[int] = 2

    init: Literal["default", "reference", "torch"] = attrs.field(
        default="default", validator=attrs.validators.in_(("default", "reference", "torch"))
    )
    """"default" and "reference": Normal by fan-out, classifier Normal(0, 0.01), biases 0. "torch": PyTorch's."""
    weights: str | None = None
    """File of weights to start from (torch or safetensors); a classifier of another shape starts anew."""
    drop_path_rate: float = attrs.field(default=0.0, validator=[attrs.validators.ge(0), attrs.validators.lt(1)])
    """Stochastic depth, linear over the blocks up to this rate in [0, 1)."""
    gate_fp32: bool = False
    """Compute the gates and the convolutions after them in float32 under mixed precision, as the benchmark does."""
    double_gate_act: bool | None = None
    """Apply SiLU twice to both factors of a gate, as the benchmark does with that; absent: as `gate_fp32` says."""

    @hookimpl
    def build_backbone(self, task: Task) -> nn.Module:
        """The network, on the CPU, in train mode."""
        network = MogaNet(
            self.widths,
            self.depths,
            num_classes=task.num_classes,
            in_chans=task.in_channels,
            stem_stride=self.stem_stride,
            drop_path_rate=self.drop_path_rate,
            gate_fp32=self.gate_fp32,
            double_act=self.gate_fp32 if self.double_gate_act is None else self.double_gate_act,
        )
        if self.init != "torch":
            network.initialise()
        if self.weights is not None:
            load_weights(network, Path(self.weights), "backbone.weights")
        return network


@attrs.define(eq=False, kw_only=True)
class MogaNetXTiny(_Moga):
    """MogaNet X-Tiny: 2,956,066 parameters at 1000 classes."""

    widths: ClassVar[tuple[int, ...]] = (32, 64, 96, 192)
    depths: ClassVar[tuple[int, ...]] = (3, 3, 10, 2)


@attrs.define(eq=False, kw_only=True)
class MogaNetTiny(_Moga):
    """MogaNet Tiny: 5,197,332 parameters at 1000 classes, 1.08 GMACs at 224."""

    widths: ClassVar[tuple[int, ...]] = (32, 64, 128, 256)
    depths: ClassVar[tuple[int, ...]] = (3, 3, 12, 2)


@attrs.define(eq=False, kw_only=True)
class MogaNetSmall(_Moga):
    """MogaNet Small: 25,335,675 parameters at 1000 classes."""

    widths: ClassVar[tuple[int, ...]] = (64, 128, 320, 512)
    depths: ClassVar[tuple[int, ...]] = (2, 3, 12, 2)


@attrs.define(eq=False, kw_only=True)
class CifarMogaNetTiny(MogaNetTiny):
    """MogaNet Tiny for small images: stride 1 in both convolutions of the stem; 4,966,032 parameters at 100 classes."""

    stem_stride: ClassVar[int] = 1
