"""MogaNet's block: multi-order gated aggregation, then channel aggregation (arXiv 2211.03295, section 4).

Letters: N batch, C channels, E hidden channels, h w the map.
"""

from __future__ import annotations

import torch
from timm.layers import DropPath
from torch import Tensor, nn
from torch.nn import functional as F

from mixcore.api import autocast_off

__all__ = ["Block", "Scale"]

_SCALE = 1e-5
"""What learnt scales start at."""


class Scale(nn.Module):
    """A learnt factor per channel, [1,C,1,1]."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((1, channels, 1, 1), _SCALE))

    def forward(self, x: Tensor) -> Tensor:
        """[N,C,h,w] -> [N,C,h,w]."""
        return x * self.weight


def _depthwise(channels: int, kernel: int, dilation: int = 1) -> nn.Conv2d:
    """Keeps height and width."""
    return nn.Conv2d(channels, channels, kernel, 1, dilation * (kernel // 2), dilation, channels)


class MultiOrder(nn.Module):
    """Depthwise context of three ranges, for 1/8, 3/8 and 4/8 of the channels; the longer ones upon the shortest."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.parts = (channels - 3 * channels // 8 - channels // 2, 3 * channels // 8, channels // 2)
        self.near = _depthwise(channels, 5)
        self.middle = _depthwise(self.parts[1], 5, 2)
        self.far = _depthwise(self.parts[2], 7, 3)
        self.merge = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """[N,C,h,w] -> [N,C,h,w]."""
        near, middle, far = self.near(x).split(self.parts, 1)
        return self.merge(torch.cat((near, self.middle(middle), self.far(far)), 1))


class GatedAggregation(nn.Module):
    """Multi-order gated aggregation; what is added to its result is its own input, which is normalised.

    `gate_fp32` computes the gate and the convolution after it in float32 under any autocast; `double_act` applies SiLU
    twice to both factors of the gate.
    """

    def __init__(self, channels: int, *, gate_fp32: bool, double_act: bool) -> None:
        super().__init__()
        self.proj1 = nn.Conv2d(channels, channels, 1)
        self.scale = Scale(channels)
        self.gate = nn.Conv2d(channels, channels, 1)
        self.value = MultiOrder(channels)
        self.proj2 = nn.Conv2d(channels, channels, 1)
        self.gate_fp32, self.double_act = gate_fp32, double_act

    def forward(self, x: Tensor) -> Tensor:
        """[N,C,h,w] -> [N,C,h,w]."""
        hidden = self.proj1(x)
        hidden = F.silu(hidden + self.scale(hidden - hidden.mean((2, 3), keepdim=True)))
        gate, value = self.gate(hidden), self.value(hidden)
        if not self.gate_fp32:
            return self.proj2(self._gated(gate, value)) + x
        with autocast_off(x.device):
            return self.proj2(self._gated(gate.float(), value.float())) + x

    def _gated(self, gate: Tensor, value: Tensor) -> Tensor:
        gate, value = F.silu(gate), F.silu(value)
        return F.silu(gate) * F.silu(value) if self.double_act else gate * value


class ChannelAggregation(nn.Module):
    """An MLP of convolutions whose hidden channels are set off from what they have in common."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(channels, hidden, 1)
        self.dw = _depthwise(hidden, 3)
        self.common = nn.Conv2d(hidden, 1, 1)
        self.scale = Scale(hidden)
        self.fc2 = nn.Conv2d(hidden, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """[N,C,h,w] -> [N,C,h,w], by way of [N,E,h,w]."""
        hidden = F.gelu(self.dw(self.fc1(x)))
        return self.fc2(hidden + self.scale(hidden - F.gelu(self.common(hidden))))


class Block(nn.Module):
    """x + scale(aggregation(norm(x))), then x + scale(mlp(norm(x))), each branch dropped with `drop_path` per image."""

    def __init__(
        self, channels: int, mlp_ratio: int, drop_path: float, *, gate_fp32: bool = False, double_act: bool = False
    ) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(channels)
        self.aggregation = GatedAggregation(channels, gate_fp32=gate_fp32, double_act=double_act)
        self.scale1 = Scale(channels)
        self.norm2 = nn.BatchNorm2d(channels)
        self.mlp = ChannelAggregation(channels, mlp_ratio * channels)
        self.scale2 = Scale(channels)
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """[N,C,h,w] -> [N,C,h,w]."""
        x = x + self.drop_path(self.scale1(self.aggregation(self.norm1(x))))
        return x + self.drop_path(self.scale2(self.mlp(self.norm2(x))))
