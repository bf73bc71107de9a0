"""Attention of timm's ViT, DeiT and their kin, with query and key norms."""

from __future__ import annotations

from timm.layers.attention import Attention as TimmAttention
from torch import nn

from mixcore.api import Attention, AttentionTap, prefix_tokens

__all__ = ["TokenTap"]


class TokenTap(AttentionTap):
    """What leaves `q_norm` and `k_norm` (identities where a model has none) is [M,heads,P+T,d]."""

    @staticmethod
    def reads(module: nn.Module) -> bool:
        """timm's plain attention, itself."""
        return type(module) is TimmAttention

    def connect(self, module: nn.Module, model: nn.Module, /) -> None:
        """Queries and keys behind their norms."""
        self._scale, self._prefix = float(module.scale), prefix_tokens(model)  # type: ignore[arg-type]
        self._class_token = getattr(model, "cls_token", None) is not None
        self.keep_output("queries", module.get_submodule("q_norm"))
        self.keep_output("keys", module.get_submodule("k_norm"))

    def attention(self) -> Attention:
        """Over all tokens, with the prefix."""
        return Attention(self.kept("queries"), self.kept("keys"), self._scale, self._prefix, self._class_token)
