"""Attention of timm's PVTv2 where it is not reduced: there keys stand for single patches."""

from __future__ import annotations

from timm.models.pvt_v2 import Attention as TimmAttention
from torch import Tensor, nn

from mixcore.api import Attention, AttentionTap

__all__ = ["PoolingTap"]


class PoolingTap(AttentionTap):
    """`q` gives [M,T,heads·d], `kv` gives [M,T,2·heads·d] with the keys first."""

    @staticmethod
    def reads(module: nn.Module) -> bool:
        """PVTv2's attention without spatial reduction."""
        return type(module) is TimmAttention and module.sr is None

    def connect(self, module: nn.Module, _model: nn.Module, /) -> None:
        """Queries and keys, split into heads."""
        self._scale, self._heads = float(module.scale), int(module.num_heads)  # type: ignore[arg-type]
        self.keep_output("queries", module.get_submodule("q"), self._queries)
        self.keep_output("keys", module.get_submodule("kv"), self._keys)

    def _queries(self, output: Tensor) -> Tensor:
        return output.unflatten(2, (self._heads, -1)).transpose(1, 2)

    def _keys(self, output: Tensor) -> Tensor:
        return output.unflatten(2, (2, self._heads, -1))[:, :, 0].transpose(1, 2)

    def attention(self) -> Attention:
        """Over all patches; there is no class token."""
        return Attention(self.kept("queries"), self.kept("keys"), self._scale, 0, False)
