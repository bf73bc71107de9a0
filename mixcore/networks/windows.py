"""Attention inside windows of a grid."""

from __future__ import annotations

import attrs
import torch
import torch.nn.functional as F
from torch import Tensor

from mixcore.autocast import autocast_off
from mixcore.types import Attention

__all__ = ["WindowAttention"]


@attrs.frozen(eq=False, kw_only=True)
class WindowAttention(Attention):
    """Attention inside windows of a grid, as one matrix over the whole grid that is zero between windows.

    Queries and keys are [M·windows,heads,n,d], window by window in row order, of the grid rolled by `-shift` and padded
    to whole windows. `bias` [1,heads,n,n] is added to the logits, and `mask` [windows,n,n] where the grid is rolled.
    """

    bias: Tensor
    mask: Tensor | None
    grid: tuple[int, int]
    window: tuple[int, int]
    shift: tuple[int, int]

    def _matrix(self) -> Tensor:
        """[M·windows,n,n], averaged over heads."""
        with autocast_off(self.queries.device):
            scores = self.scale * self.queries.float() @ self.keys.float().transpose(-2, -1) + self.bias.float()
            if self.mask is not None:
                windows = self.mask.shape[0]
                scores = (scores.unflatten(0, (-1, windows)) + self.mask.float()[:, None]).flatten(0, 1)
            return scores.softmax(-1).mean(1)

    def _split(self, weights: Tensor) -> Tensor:
        """[M,T] to [M·windows,n]; zero on padding."""
        (height, width), (wh, ww) = self.grid, self.window
        grid = weights.unflatten(1, self.grid).roll((-self.shift[0], -self.shift[1]), (1, 2))
        grid = F.pad(grid, (0, -width % ww, 0, -height % wh))
        rows, columns = grid.shape[1] // wh, grid.shape[2] // ww
        return grid.unflatten(2, (columns, ww)).unflatten(1, (rows, wh)).transpose(2, 3).reshape(-1, wh * ww)

    def _merge(self, values: Tensor) -> Tensor:
        """[M·windows,n] to [M,T], padding dropped."""
        (height, width), (wh, ww) = self.grid, self.window
        rows, columns = -(-height // wh), -(-width // ww)
        grid = values.reshape(-1, rows, columns, wh, ww).transpose(2, 3).flatten(3, 4).flatten(1, 2)
        return grid[:, :height, :width].roll(self.shift, (1, 2)).flatten(1)

    def received(self) -> Tensor:
        """[M,T] attention that each patch receives from the patches of its window, averaged over all T patches."""
        patches = self.grid[0] * self.grid[1]
        real = self._split(self.queries.new_ones(1, patches, dtype=torch.float32))
        real = real.repeat(self.queries.shape[0] // real.shape[0], 1)
        return self._merge((real[:, :, None] * self._matrix()).sum(1)) / patches

    def apply(self, weights: Tensor) -> Tensor:
        """A w in float32, for `weights` [M,T] or several at once [M,T,S]."""
        columns = weights.float().reshape(*weights.shape[:2], -1).unbind(2)
        inside = torch.stack([self._split(column) for column in columns], 2)
        with autocast_off(self.queries.device):
            summed = self._matrix() @ inside
        return torch.stack([self._merge(column) for column in summed.unbind(2)], 2).reshape(weights.shape)
