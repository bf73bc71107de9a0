"""One stage of the pyramid: patches, their positions, transformer blocks.

Letters: N batch, C channels, L tokens, h w the grid of the stage, h' w' that of the map before.
"""

from __future__ import annotations

from collections.abc import Sequence

import attrs
import torch
from timm.layers import DropPath, Mlp
from timm.models import checkpoint
from torch import Tensor, nn
from torch.nn import functional as F

from mixcore_plugin_pvt.attention import SpatialReductionAttention

__all__ = ["EPS", "Level", "Stage", "resized_positions"]

EPS = 1e-6
"""Of every LayerNorm but the one inside the attention."""


@attrs.frozen
class Level:
    """What sets one stage apart from the others."""

    patch: int
    """Side of a patch, in pixels of the map before."""
    width: int
    heads: int
    reduction: int
    """How much smaller the map is that tokens attend to."""
    mlp_ratio: int


def resized_positions(positions: Tensor, old: tuple[int, int], new: tuple[int, int]) -> Tensor:
    """Position embeddings [1,P+h·w,C] of the grid `old` for the grid `new`, by bicubic interpolation.

    The P in front, which belong to a class token, stay as they are.
    """
    if old == new:
        return positions
    prefix = positions.shape[1] - old[0] * old[1]
    grid = positions[:, prefix:].transpose(1, 2).unflatten(2, old)
    resized = F.interpolate(grid, new, mode="bicubic").flatten(2).transpose(1, 2)
    return torch.cat((positions[:, :prefix], resized), 1)


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)), each branch dropped with probability `drop_path` per image."""

    def __init__(self, level: Level, drop_path: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(level.width, eps=EPS)
        self.attn = SpatialReductionAttention(level.width, level.heads, level.reduction)
        self.norm2 = nn.LayerNorm(level.width, eps=EPS)
        self.mlp = Mlp(level.width, level.mlp_ratio * level.width)
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()

    def forward(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        """[N,L,C] -> [N,L,C]."""
        x = x + self.drop_path(self.attn(self.norm1(x), grid))
        return x + self.drop_path(self.mlp(self.norm2(x)))


class Stage(nn.Module):
    """Patches of the map before, embedded; learnt positions added; blocks.

    Without a class token it puts out a map [N,C,h,w], with one the tokens [N,1+h·w,C]. `grid` is the (h, w) that the
    positions are learnt on; `drop_paths` has a rate per block.
    """

    def __init__(
        self,
        inputs: int,
        level: Level,
        *,
        grid: tuple[int, int],
        drop_paths: Sequence[float],
        class_token: bool,
    ) -> None:
        super().__init__()
        self.grid = grid
        self.proj = nn.Conv2d(inputs, level.width, level.patch, level.patch)
        self.norm = nn.LayerNorm(level.width, eps=EPS)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, level.width)) if class_token else None
        self.pos_embed = nn.Parameter(torch.zeros(1, int(class_token) + grid[0] * grid[1], level.width))
        self.blocks = nn.ModuleList(Block(level, rate) for rate in drop_paths)
        self.grad_checkpointing = False

    def forward(self, x: Tensor) -> Tensor:
        """[N,C',h',w'] -> [N,C,h,w], or [N,1+h·w,C] with a class token."""
        x = self.proj(x)
        grid = (x.shape[2], x.shape[3])
        x = self.norm(x.flatten(2).transpose(1, 2))
        if self.cls_token is not None:
            x = torch.cat((self.cls_token.expand(len(x), -1, -1), x), 1)
        x = x + resized_positions(self.pos_embed, self.grid, grid)
        for block in self.blocks:
            x = checkpoint(block, x, grid) if self.grad_checkpointing and self.training else block(x, grid)
        return x if self.cls_token is not None else x.transpose(1, 2).unflatten(2, grid)
