"""The builtin backbone `wrn28_8`."""

from __future__ import annotations

import attrs
from torch import nn

from mixcore.api import Task, hookimpl
from mixcore_plugins_builtin.backbones.options import BackboneOptions
from mixcore_plugins_builtin.backbones.wide_resnet import WideResNet

__all__ = ["WideResNet28x8"]


@attrs.define(eq=False, kw_only=True)
class WideResNet28x8(BackboneOptions):
    """WRN-28-8 for small images; 23,409,092 parameters at 100 classes.

    `init` "default" is "reference" here: convolutions Normal(0, sqrt(2 / fan_out)), classifier Normal(0, 0.01).
    """

    drop_rate: float = attrs.field(default=0.0, validator=[attrs.validators.ge(0), attrs.validators.lt(1)])
    """Dropout between the convolutions of a block, in [0, 1); 0 in every published recipe."""
    bn_momentum: float = attrs.field(default=0.001, validator=[attrs.validators.gt(0), attrs.validators.le(1)])
    """BatchNorm's share of each new batch; 0.001 suits runs of hundreds of epochs, 0.1 short ones."""

    @hookimpl
    def build_backbone(self, task: Task) -> nn.Module:
        """The network, on the CPU, in train mode."""
        network = WideResNet(
            num_classes=task.num_classes,
            in_chans=task.in_channels,
            drop_rate=self.drop_rate,
            bn_momentum=self.bn_momentum,
        )
        return self.start(network, init="reference" if self.init == "default" else self.init)
