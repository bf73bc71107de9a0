"""What a forward of a network gave, its attention among it."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import attrs
from torch import Tensor
from torch.nn import functional as F

from mixcore.autocast import autocast_off
from mixcore.errors import MixcoreError
from mixcore.types.names import Stage

__all__ = ["Attention", "ForwardOutput"]


@attrs.frozen(eq=False)
class Attention:
    """Self-attention of one block, from detached `queries` and `keys` [M,heads,P+T,d], averaged over heads.

    Rows of the matrix A = softmax(scale · q kᵀ) sum to 1 over all P+T columns. The sums are made when asked for: the
    whole matrix is never kept.
    """

    queries: Tensor
    keys: Tensor
    scale: float
    prefix: int
    class_token: bool = True
    """Whether the first prefix token is a class token; registers alone are none."""

    def row(self) -> Tensor:
        """[M,T] attention that the class token pays to the patches. MixcoreError for a network without one."""
        if self.prefix == 0 or not self.class_token:
            raise MixcoreError("this network has no class token; use received() instead of row()")
        return self._rows(self.queries[:, :, :1])[:, 0, self.prefix :]

    def received(self) -> Tensor:
        """[M,T] attention that each patch receives from all patches, averaged over them."""
        return self._rows(self.queries[:, :, self.prefix :]).mean(1)[:, self.prefix :]

    def on_patches(self) -> Tensor:
        """[M,T] how much each patch is looked at: row() where there is a class token, else received()."""
        return self.row() if self.prefix and self.class_token else self.received()

    def apply(self, weights: Tensor) -> Tensor:
        """A w in float32, for `weights` [M,P+T] or several at once [M,P+T,S]. The matrix is not formed."""
        values = weights.float().reshape(*weights.shape[:2], -1)
        heads, width, several = self.queries.shape[1], self.queries.shape[3], values.shape[2]
        # columns of zeros, as many as the kernels want that keep no matrix: values as wide as queries
        values = F.pad(values, (0, max(width - several, 0)))[:, None].expand(-1, heads, -1, -1)
        with autocast_off(self.queries.device):
            queries, keys = self.queries.float(), self.keys.float()
            summed = F.scaled_dot_product_attention(queries, keys, values, scale=self.scale)
        return summed[..., :several].mean(1).reshape(weights.shape)

    def _rows(self, queries: Tensor) -> Tensor:
        """Rows of A for some of the queries, averaged over heads, in float32 under any autocast."""
        with autocast_off(queries.device):
            scores = self.scale * queries.float() @ self.keys.float().transpose(-2, -1)
            return scores.softmax(-1).mean(1)


@attrs.define(eq=False, kw_only=True)
class ForwardOutput:
    """What one forward of a network gave: `logits` [M,K] float32, and what was asked for beside it."""

    logits: Tensor
    _features: Tensor | None = None
    stages: Mapping[Stage, Tensor] = attrs.field(factory=dict)
    """[M,C,h,w] maps of the stages asked for, under the names that were asked."""
    attention: tuple[Attention, ...] = ()
    """Per block, where attention was asked for."""
    _pool: Callable[[Tensor], Tensor] | None = None
    _flatten: Callable[[Tensor], Tensor] | None = None
    _pooled: Tensor | None = None

    @property
    def features(self) -> Tensor:
        """What forward_features returned, with its graph. MixcoreError of a network without timm's interface."""
        if self._features is None:
            raise MixcoreError(
                "this network is a plain module, whose forward gives logits but no features, pooled or tokens; "
                "mixcore.as_backbone(module, features=..., classifier=...) gives it timm's interface, and a plugin "
                'that reads them has needs = frozenset({"features"}) on its class'
            )
        return self._features

    @property
    def pooled(self) -> Tensor:
        """[M,D] input of the head, computed at the first access."""
        if self._pooled is None:
            features = self.features
            assert self._pool is not None
            self._pooled = self._pool(features)
        return self._pooled

    @property
    def tokens(self) -> Tensor:
        """[M,T,D] features at the final positions, without prefix tokens."""
        features = self.features
        assert self._flatten is not None
        return self._flatten(features)
