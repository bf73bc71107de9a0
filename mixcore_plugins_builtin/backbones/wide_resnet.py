"""Wide residual networks (arXiv 1605.07146) in the form of the published CIFAR results: biases, leaky ReLU, slow BN.

Letters: N batch, C channels, h w a feature map, D features, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from timm.models import checkpoint_seq
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["WideBlock", "WideResNet"]

_BN_EPS = 1e-3
_SLOPE = 0.1


class WideBlock(nn.Module):
    """Pre-activation block `conv2(dropout(act(bn2(conv1(act(bn1(x)))))))` plus its shortcut.

    Where widths differ the shortcut is a 1x1 convolution, of the activated input if `activate_shortcut`, else of x.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        stride: int,
        *,
        activate_shortcut: bool = False,
        drop_rate: float = 0.0,
        bn_momentum: float = 0.001,
    ) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs, eps=_BN_EPS, momentum=bn_momentum)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1)
        self.bn2 = nn.BatchNorm2d(outputs, eps=_BN_EPS, momentum=bn_momentum)
        self.drop = nn.Dropout(drop_rate)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1)
        self.shortcut = nn.Identity() if inputs == outputs else nn.Conv2d(inputs, outputs, 1, stride)
        self.activate_shortcut = activate_shortcut

    def forward(self, x: Tensor) -> Tensor:
        """[N,C,h,w] -> [N,C',h/stride,w/stride]."""
        activated = F.leaky_relu(self.bn1(x), _SLOPE, inplace=True)
        hidden = F.leaky_relu(self.bn2(self.conv1(activated)), _SLOPE, inplace=True)
        shortcut: Tensor = self.shortcut(activated if self.activate_shortcut else x)
        return shortcut + self.conv2(self.drop(hidden))


class WideResNet(nn.Module):
    """WRN-`depth`-`widen`: three groups of (depth - 4) / 6 blocks, widths 16·widen·(1, 2, 4), strides 1, 2, 2.

    Speaks timm's language: forward_features [N,D,h/4,w/4], forward_head, get_classifier, reset_classifier,
    num_features, feature_info (group1, group2, and the last map after its norm and activation).
    """

    def __init__(
        self,
        *,
        depth: int = 28,
        widen: int = 8,
        num_classes: int = 100,
        in_chans: int = 3,
        drop_rate: float = 0.0,
        bn_momentum: float = 0.001,
    ) -> None:
        super().__init__()
        widths = [16, 16 * widen, 32 * widen, 64 * widen]
        blocks = (depth - 4) // 6
        settings: dict[str, Any] = {"drop_rate": drop_rate, "bn_momentum": bn_momentum}
        self.conv1 = nn.Conv2d(in_chans, widths[0], 3, 1, 1)
        self.group1 = self._group(widths[0], widths[1], blocks, 1, activate_shortcut=True, **settings)
        self.group2 = self._group(widths[1], widths[2], blocks, 2, **settings)
        self.group3 = self._group(widths[2], widths[3], blocks, 2, **settings)
        self.bn = nn.BatchNorm2d(widths[3], eps=_BN_EPS, momentum=bn_momentum)
        self.act = nn.LeakyReLU(_SLOPE, inplace=True)
        self.num_classes = num_classes
        self.num_features = self.head_hidden_size = widths[3]
        self.fc = nn.Linear(widths[3], num_classes)
        self.grad_checkpointing = False
        self.feature_info: Sequence[dict[str, Any]] = [
            {"num_chs": width, "reduction": reduction, "module": module}
            for width, reduction, module in zip(widths[1:], (1, 2, 4), ("group1", "group2", "act"), strict=True)
        ]

    @staticmethod
    def _group(
        inputs: int, outputs: int, blocks: int, stride: int, *, activate_shortcut: bool = False, **settings: Any
    ) -> nn.Sequential:
        first = WideBlock(inputs, outputs, stride, activate_shortcut=activate_shortcut, **settings)
        return nn.Sequential(first, *(WideBlock(outputs, outputs, 1, **settings) for _ in range(blocks - 1)))

    def forward_features(self, x: Tensor) -> Tensor:
        """[N,C,H,W] -> [N,D,H/4,W/4]."""
        x = self.conv1(x)
        if self.grad_checkpointing and self.training:
            x = checkpoint_seq((self.group1, self.group2, self.group3), x, flatten=True)
        else:
            x = self.group3(self.group2(self.group1(x)))
        return self.act(self.bn(x))

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """[N,D,h,w] -> logits [N,K], or the pooled features [N,D] with `pre_logits`."""
        pooled = x.mean((2, 3))
        return pooled if pre_logits else self.fc(pooled)

    def forward(self, x: Tensor) -> Tensor:
        """Logits [N,K]."""
        return self.forward_head(self.forward_features(x))

    def get_classifier(self) -> nn.Module:
        """The linear layer D -> K."""
        return self.fc

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """A new classifier; none for 0 classes. Pooling is always the average."""
        if global_pool not in (None, "avg"):
            raise ValueError(f"found global_pool = {global_pool!r}; this network pools by average only")
        self.num_classes = num_classes
        self.fc = nn.Linear(self.num_features, num_classes) if num_classes else nn.Identity()  # type: ignore[assignment]

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute the blocks' activations in backward instead of keeping them."""
        self.grad_checkpointing = enable
