"""MogaNet (arXiv 2211.03295), in timm's language.

Letters: N batch, C channels, H W image, h w a feature map, D features, K classes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

from timm.layers import calculate_drop_path_rates
from timm.models import checkpoint_seq
from torch import Tensor, nn

from mixcore_plugin_moganet.block import Block, Scale

__all__ = ["MogaNet"]

MLP_RATIOS = (8, 8, 4, 4)


def _stem(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    """Two convolutions, each of that stride."""
    middle = outputs // 2
    return nn.Sequential(
        nn.Conv2d(inputs, middle, 3, stride, 1),
        nn.BatchNorm2d(middle),
        nn.GELU(),
        nn.Conv2d(middle, outputs, 3, stride, 1),
        nn.BatchNorm2d(outputs),
    )


def _embed(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, 2, 1), nn.BatchNorm2d(outputs))


class Stage(nn.Module):
    """An embedding that shrinks the map, blocks, and a norm."""

    def __init__(self, embed: nn.Module, blocks: Sequence[Block], channels: int) -> None:
        super().__init__()
        self.embed = embed
        self.blocks = nn.Sequential(*blocks)
        self.norm = nn.BatchNorm2d(channels)
        self.grad_checkpointing = False

    def forward(self, x: Tensor) -> Tensor:
        """[N,C',h',w'] -> [N,C,h,w]."""
        x = self.embed(x)
        x = checkpoint_seq(self.blocks, x) if self.grad_checkpointing and self.training else self.blocks(x)
        return self.norm(x)


class MogaNet(nn.Module):
    """MogaNet of four stages with these widths and depths; the defaults are Tiny.

    `stem_stride` is that of both convolutions of the stem: 2, or 1 for small images. Drop path grows from 0 in the
    first block to `drop_path_rate` in the last. `gate_fp32` and `double_act` are those of the blocks' gates.

    Speaks timm's language: forward_features [N,D,h,w], forward_head, get_classifier, reset_classifier, num_features,
    feature_info (the four stages), no_weight_decay, set_grad_checkpointing. Weights are PyTorch's own until
    :meth:`initialise`.
    """

    def __init__(
        self,
        widths: Sequence[int] = (32, 64, 128, 256),
        depths: Sequence[int] = (3, 3, 12, 2),
        *,
        num_classes: int = 1000,
        in_chans: int = 3,
        stem_stride: int = 2,
        drop_path_rate: float = 0.0,
        gate_fp32: bool = False,
        double_act: bool = False,
    ) -> None:
        super().__init__()
        rates: Iterator[Any] = iter(calculate_drop_path_rates(drop_path_rate, sum(depths)))
        embeds = [_stem(in_chans, widths[0], stem_stride), *(_embed(*pair) for pair in pairwise(widths))]
        self.stages = nn.Sequential(
            *(
                Stage(
                    embed,
                    [
                        Block(width, ratio, next(rates), gate_fp32=gate_fp32, double_act=double_act)
                        for _ in range(depth)
                    ],
                    width,
                )
                for embed, width, depth, ratio in zip(embeds, widths, depths, MLP_RATIOS, strict=True)
            )
        )
        self.num_classes = num_classes
        self.num_features = self.head_hidden_size = widths[-1]
        self.head = nn.Linear(self.num_features, num_classes)
        self.feature_info: Sequence[dict[str, Any]] = [
            {"num_chs": width, "reduction": stem_stride**2 * 2**number, "module": f"stages.{number}"}
            for number, width in enumerate(widths)
        ]

    def initialise(self) -> None:
        """Convolutions Normal(0, sqrt(2 / (kernel area · outputs / groups))), classifier Normal(0, 0.01), biases 0."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                fan_out = module.weight[0, 0].numel() * module.out_channels // module.groups
                nn.init.normal_(module.weight, std=(2 / fan_out) ** 0.5)
            elif isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.01)
            if isinstance(module, (nn.Conv2d, nn.Linear)) and module.bias is not None:
                nn.init.zeros_(module.bias)

    def no_weight_decay(self) -> set[str]:
        """Every learnt scale, which the published recipe spares."""
        return {f"{name}.weight" for name, module in self.named_modules() if isinstance(module, Scale)}

    def forward_features(self, x: Tensor) -> Tensor:
        """[N,C,H,W] -> [N,D,H/32,W/32], /8 with a stem of stride 1; rounded up."""
        return self.stages(x)

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """[N,D,h,w] -> logits [N,K], or the pooled features [N,D] with `pre_logits`."""
        pooled = x.mean((2, 3))
        return pooled if pre_logits else self.head(pooled)

    def forward(self, x: Tensor) -> Tensor:
        """Logits [N,K]."""
        return self.forward_head(self.forward_features(x))

    def get_classifier(self) -> nn.Module:
        """The linear layer D -> K."""
        return self.head

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """A new classifier; none for 0 classes. Pooling is always the average."""
        if global_pool not in (None, "avg"):
            raise ValueError(f"found global_pool = {global_pool!r}; this network pools by average only")
        self.num_classes = num_classes
        self.head = nn.Linear(self.num_features, num_classes) if num_classes else nn.Identity()  # type: ignore[assignment]

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute the blocks' activations in backward instead of keeping them."""
        for stage in self.stages:
            stage.grad_checkpointing = enable  # type: ignore[assignment]
