"""Attention of PVT's last stage, the one whose keys stand for single patches."""

from __future__ import annotations

from torch import Tensor, nn

from mixcore.api import Attention, AttentionTap, prefix_tokens
from mixcore_plugin_pvt.attention import SpatialReductionAttention

__all__ = ["PyramidTap"]


class PyramidTap(AttentionTap):
    """Class token and patches of stage 4; in the stages before, a key stands for a block of tokens and is not read."""

    @staticmethod
    def reads(module: nn.Module) -> bool:
        """Attention without reduction."""
        return type(module) is SpatialReductionAttention and module.reduce is None

    def connect(self, module: nn.Module, model: nn.Module, /) -> None:
        """Queries and keys, split into heads."""
        assert isinstance(module, SpatialReductionAttention)
        self._block, self._prefix = module, prefix_tokens(model)
        self.keep_output("queries", module.q, module.queries)
        self.keep_output("keys", module.kv, self._keys)

    def _keys(self, projected: Tensor) -> Tensor:
        return self._block.keys_values(projected)[0]

    def attention(self) -> Attention:
        """Over all tokens, with the class token."""
        queries: Tensor = self.kept("queries")
        return Attention(queries, self.kept("keys"), queries.shape[-1] ** -0.5, self._prefix)
