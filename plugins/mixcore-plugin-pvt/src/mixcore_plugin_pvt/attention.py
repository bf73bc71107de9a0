"""Self-attention whose keys and values come from a smaller map (arXiv 2102.12122, section 3.3).

Letters: N batch, L tokens, C channels, h w the map that the tokens make.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["SpatialReductionAttention"]


class SpatialReductionAttention(nn.Module):
    """Attention of every token to the tokens of a map that is `reduction` times smaller in height and width.

    The map is made by a convolution of kernel and stride `reduction`, then LayerNorm. With 1 it is plain attention, and
    tokens that are no map (a class token) may be among them.
    """

    def __init__(self, width: int, heads: int, reduction: int) -> None:
        super().__init__()
        self.heads = heads
        self.q = nn.Linear(width, width)
        self.kv = nn.Linear(width, 2 * width)
        self.proj = nn.Linear(width, width)
        self.reduce = nn.Conv2d(width, width, reduction, reduction) if reduction > 1 else None
        self.norm = nn.LayerNorm(width) if reduction > 1 else None

    def forward(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        """[N,L,C] -> [N,L,C]; `grid` is (h, w)."""
        queries = self.queries(self.q(x))
        keys, values = self.keys_values(self.kv(self._reduced(x, grid)))
        mixed = F.scaled_dot_product_attention(queries, keys, values)
        return self.proj(mixed.transpose(1, 2).flatten(2))

    def queries(self, projected: Tensor) -> Tensor:
        """What `q` gave, [N,L,C], as [N,heads,L,d]."""
        return projected.unflatten(2, (self.heads, -1)).transpose(1, 2)

    def keys_values(self, projected: Tensor) -> tuple[Tensor, Tensor]:
        """What `kv` gave, [N,L,2C] with the keys first, as two of [N,heads,L,d]."""
        keys, values = projected.unflatten(2, (2, self.heads, -1)).transpose(1, 3).unbind(2)
        return keys, values

    def _reduced(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        if self.reduce is None or self.norm is None:
            return x
        return self.norm(self.reduce(x.transpose(1, 2).unflatten(2, grid)).flatten(2).transpose(1, 2))
