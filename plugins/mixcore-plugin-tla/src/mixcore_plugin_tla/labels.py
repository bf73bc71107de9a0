"""TL-Align, the label policy: label weights go through the network with the tokens, block by block.

M mixed images, S sources, P prefix tokens, T patches, h w the grid of patches.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import attrs
import torch
from attrs.validators import ge, le
from torch import Tensor, nn
from torch.nn import functional as F

from mixcore.api import (
    Attention,
    ConfigError,
    ForwardOutput,
    Mix,
    Probe,
    Targets,
    WindowAttention,
    grid_of,
    hookimpl,
)

__all__ = ["AlignedLabels", "carry"]

Grid = tuple[int, int]


def carry(weights: Tensor, blocks: Sequence[Attention], grid: Grid, residual: float = 0.5) -> Tensor:
    """w <- (1 - residual) · A w + residual · w, for the attention A of each block in order (step 3 of the method).

    `weights` [M,P+T,S] are label weights of the tokens, P prefix tokens before a `grid` of T patches; the result
    [M,P+T',S] is that of the last block. Where a network of windows makes one patch of 2 x 2, this has their mean.
    """
    for block in blocks:
        if isinstance(block, WindowAttention) and block.grid != grid:
            maps = weights.transpose(1, 2).unflatten(2, grid)
            # of a grid of odd sides the last row has no second one: the mean is that of what is there
            weights = F.avg_pool2d(maps, 2, ceil_mode=True).flatten(2).transpose(1, 2)
            grid = block.grid
        weights = torch.lerp(block.apply(weights), weights, residual)
    return weights


def first_grid(block: Attention, height: int, width: int) -> Grid:
    """The grid of patches of a block that sees an image of that size."""
    if isinstance(block, WindowAttention):
        return block.grid
    return grid_of(block.queries.shape[2] - block.prefix, height, width)


def check_first(model: nn.Module, grid: Grid, height: int, width: int) -> None:
    """Refuse a network whose first blocks cannot be read: labels would miss what these stir. ConfigError."""
    stages: Any = getattr(model, "feature_info", None) or [{}]
    reduction = stages[0].get("reduction")
    if reduction is not None and (2 * grid[0] * reduction <= height or 2 * grid[1] * reduction <= width):
        raise ConfigError(
            f"tla_labels carries label weights through every block, and the first attention of {type(model).__name__} "
            f"that can be read stands on {grid[0]}x{grid[1]} tokens, where the network begins with "
            f"{height // reduction}x{width // reduction}; use a [backbone] all of whose attention is read (ViT, DeiT, "
            'Swin), or [labels] name = "weights"'
        )


def reads_class_token(model: nn.Module, last: Attention) -> bool:
    """Whether the head reads the class token, and not the patches."""
    return last.prefix > 0 and last.class_token and getattr(model, "global_pool", "token") in ("token", "")


@attrs.define(eq=False, kw_only=True)
class AlignedLabels:
    """Label weights that go with the tokens through every block's attention, for the masks of any mixer."""

    role = "labels"
    needs = frozenset({"mask", "attention"})

    residual: float = attrs.field(default=0.5, validator=[ge(0), le(1)])
    """Part of a token's label weights that a block leaves as they are: the path around its attention."""

    @hookimpl
    def mix_labels(self, mix: Mix, labels: Tensor, output: ForwardOutput, probe: Probe) -> Targets:
        """The mix's sources with the weights that arrive; its own where it has no masks, or constant ones."""
        if mix.varying_masks is None:
            return mix.targets(labels)
        with torch.no_grad():
            return mix.targets(labels, self._arriving(mix, mix.varying_masks, output.attention, probe.model))

    def _arriving(self, mix: Mix, masks: Tensor, blocks: Sequence[Attention], model: nn.Module) -> Tensor:
        """[M,S] label weights at the class token, or their mean over the patches where the head reads these."""
        height, width = mix.images.shape[-2:]
        first, last = blocks[0], blocks[-1]
        grid = first_grid(first, height, width)
        check_first(model, grid, height, width)
        areas = masks.mean((2, 3), dtype=torch.float32)
        # what a token has above the area is carried: nothing at a prefix token, and a constant mask keeps its weight
        above = (mix.areas_on(*grid)[:, :-1] - areas[:, :, None, None]).flatten(2).transpose(1, 2)
        arrived = carry(F.pad(above, (0, 0, first.prefix, 0)), blocks, grid, self.residual)
        read = arrived[:, 0] if reads_class_token(model, last) else arrived[:, last.prefix :].mean(1)
        own = areas + read
        return torch.cat((own, 1 - own.sum(1, keepdim=True)), 1).clamp(0, 1)
