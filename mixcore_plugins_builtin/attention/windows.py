"""Attention of timm's Swin, inside windows of its grid."""

from __future__ import annotations

from typing import Any

from timm.models.swin_transformer import SwinTransformerBlock
from torch import Tensor, nn

from mixcore.api import AttentionTap, WindowAttention

__all__ = ["WindowTap"]


class WindowTap(AttentionTap):
    """The block is given the grid, its attention the mask, and `qkv` gives [M·windows,n,3·heads·d]."""

    @staticmethod
    def reads(module: nn.Module) -> bool:
        """The whole block: its attention alone does not know the grid."""
        return type(module) is SwinTransformerBlock

    def connect(self, module: nn.Module, _model: nn.Module, /) -> None:
        """Grid, mask, queries, keys, and the bias of positions."""
        self._block: Any = module
        attention: Any = self._block.attn
        self.keep_inputs("grid", module, _grid)
        self.keep_inputs("mask", attention, _mask)
        self.keep_output("queries", attention.qkv, self._queries)
        self.keep_output("keys", attention.qkv, self._keys)
        self.keep_output("bias", attention.qkv, self._bias)

    def _queries(self, output: Tensor) -> Tensor:
        return self._split(output)[:, :, 0]

    def _keys(self, output: Tensor) -> Tensor:
        return self._split(output)[:, :, 1]

    def _split(self, output: Tensor) -> Tensor:
        """[M·windows,heads,3,n,d]."""
        return output.unflatten(2, (3, self._block.attn.num_heads, -1)).transpose(1, 3)

    def _bias(self, _output: Tensor) -> Tensor:
        """[1,heads,n,n] as it is now: the parameters may have moved when somebody asks for the matrix."""
        bias: Tensor = self._block.attn._get_rel_pos_bias().detach()
        return bias

    def attention(self) -> WindowAttention:
        """Put together over the whole grid."""
        return WindowAttention(
            queries=self.kept("queries"),
            keys=self.kept("keys"),
            scale=float(self._block.attn.scale),
            prefix=0,
            class_token=False,
            bias=self.kept("bias"),
            mask=self.kept("mask"),
            grid=self.kept("grid"),
            window=tuple(self._block.window_size),
            shift=tuple(self._block.shift_size),
        )


def _grid(x: Tensor) -> tuple[int, int]:
    return x.shape[1], x.shape[2]


def _mask(_x: Tensor, mask: Tensor | None = None) -> Tensor | None:
    return mask
