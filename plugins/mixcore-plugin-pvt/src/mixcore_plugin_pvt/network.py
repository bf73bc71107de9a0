"""The Pyramid Vision Transformer in its first version (arXiv 2102.12122), in timm's language.

Letters: N batch, C channels, H W image, T patch tokens of the last stage, D features, K classes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate
from operator import mul
from typing import Any

from timm.layers import calculate_drop_path_rates
from torch import Tensor, nn

from mixcore_plugin_pvt.stage import EPS, Level, Stage

__all__ = ["SMALLEST", "PyramidVisionTransformer"]

LEVELS = (
    Level(patch=4, width=64, heads=1, reduction=8, mlp_ratio=8),
    Level(patch=2, width=128, heads=2, reduction=4, mlp_ratio=8),
    Level(patch=2, width=320, heads=5, reduction=2, mlp_ratio=4),
    Level(patch=2, width=512, heads=8, reduction=1, mlp_ratio=4),
)
SMALLEST = 32
"""Pixels that an image must have each way: the first stage attends to patches of 8x8 tokens, 4 pixels each."""


class PyramidVisionTransformer(nn.Module):
    """PVT with the blocks that `depths` says of each stage: (2, 2, 2, 2) is Tiny, (3, 4, 6, 3) Small.

    `img_size` (height, width) is the size whose position embeddings are learnt; other sizes interpolate them. Drop path
    grows from 0 in the first block to `drop_path_rate` in the last.

    Speaks timm's language: forward_features [N,1+T,D] with the class token first, forward_head, get_classifier,
    reset_classifier, num_features, feature_info, no_weight_decay, set_grad_checkpointing. Stages 1 to 3 put out maps,
    stage 4 tokens. Weights are PyTorch's own, positions and class token 0, until :meth:`initialise`.
    """

    num_prefix_tokens = 1
    global_pool = "token"

    def __init__(
        self,
        depths: Sequence[int] = (2, 2, 2, 2),
        *,
        num_classes: int = 1000,
        in_chans: int = 3,
        img_size: tuple[int, int] = (224, 224),
        drop_path_rate: float = 0.0,
    ) -> None:
        super().__init__()
        rates: Iterator[Any] = iter(calculate_drop_path_rates(drop_path_rate, sum(depths)))
        reductions = list(accumulate((level.patch for level in LEVELS), mul))
        inputs = (in_chans, *(level.width for level in LEVELS))
        self.stages = nn.ModuleList(
            Stage(
                inputs[number],
                level,
                grid=(img_size[0] // reductions[number], img_size[1] // reductions[number]),
                drop_paths=[next(rates) for _ in range(depths[number])],
                class_token=number == len(LEVELS) - 1,
            )
            for number, level in enumerate(LEVELS)
        )
        self.num_classes = num_classes
        self.num_features = self.head_hidden_size = LEVELS[-1].width
        self.norm = nn.LayerNorm(self.num_features, eps=EPS)
        self.head = nn.Linear(self.num_features, num_classes)
        self.feature_info: Sequence[dict[str, Any]] = [
            {"num_chs": level.width, "reduction": reductions[number], "module": f"stages.{number}"}
            for number, level in enumerate(LEVELS)
        ]

    def initialise(self) -> None:
        """Linears, positions and class token truncated normal 0.02, biases 0; convolutions stay PyTorch's."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)
        for name in self.no_weight_decay():
            nn.init.trunc_normal_(self.get_parameter(name), std=0.02)

    def no_weight_decay(self) -> set[str]:
        """Positions and class token, which recipes of transformers spare."""
        return {name for name, _ in self.named_parameters() if name.endswith(("pos_embed", "cls_token"))}

    def forward_features(self, x: Tensor) -> Tensor:
        """[N,C,H,W] -> [N,1+T,D], class token first. H and W are at least :data:`SMALLEST`."""
        for stage in self.stages:
            x = stage(x)
        return self.norm(x)

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """[N,1+T,D] -> logits [N,K] of the class token, or the token itself [N,D] with `pre_logits`."""
        pooled = x[:, 0]
        return pooled if pre_logits else self.head(pooled)

    def forward(self, x: Tensor) -> Tensor:
        """Logits [N,K]."""
        return self.forward_head(self.forward_features(x))

    def get_classifier(self) -> nn.Module:
        """The linear layer D -> K."""
        return self.head

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """A new classifier; none for 0 classes. It reads the class token, whatever else there is."""
        if global_pool not in (None, "token"):
            raise ValueError(f"found global_pool = {global_pool!r}; this network reads its class token only")
        self.num_classes = num_classes
        self.head = nn.Linear(self.num_features, num_classes) if num_classes else nn.Identity()  # type: ignore[assignment]

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute the blocks' activations in backward instead of keeping them."""
        for stage in self.stages:
            stage.grad_checkpointing = enable  # type: ignore[assignment]
