"""SAMix's Mix Block: lam scales the maps, queries and keys see both images, values are a small network.

Letters: C channels of the map, d width of queries and keys, e hidden width of the values.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from mixcore_plugin_automix import Draw, MixBlock, cross_attention
from torch import Tensor, nn

__all__ = ["SAMixBlock", "rescaled"]

STEEPEST = 10.0
"""Above this, larger k are not told apart."""


def rescaled(lam: float, k: float) -> float:
    """g(lam) = (4/3 lam³ - 2 lam² + (k+1) lam) / (k + 1/3), for k < 0 lam itself.

    g(0) = 0, g(1/2) = 1/2, g(1) = 1, g(1-lam) = 1 - g(lam), increasing; the smaller k, the flatter in the middle.
    """
    if k < 0:
        return lam
    k = min(k, STEEPEST)
    return (4 / 3 * lam**3 - 2 * lam**2 + (k + 1) * lam) / (k + 1 / 3)


class SAMixBlock(MixBlock):
    """Maps times 1 + g·lam_mul (the image's) and 1 + (1-g)·lam_mul (its partner's), g lam rescaled by `lam_mul_k`.

    4C·d + 2d + C·e + 3e parameters with e = C/2. Its BatchNorm keeps statistics of its own, of both calls in turn.
    """

    def __init__(
        self,
        channels: int,
        *,
        reduction: int = 2,
        lam_mul: float = 1.0,
        lam_mul_k: float = -1.0,
        dropout: float = 0.1,
        layer_norm: bool = False,
    ) -> None:
        super().__init__(layer_norm)
        self.channels, self.lam_mul, self.lam_mul_k, self.dropout = channels, lam_mul, lam_mul_k, dropout
        self.noisy = dropout > 0
        width, hidden = max(channels // reduction, 1), max(channels // 2, 1)
        self.query = nn.Conv2d(2 * channels, width, 1)
        self.key = nn.Conv2d(2 * channels, width, 1)
        self.hidden = nn.Conv2d(channels, hidden, 1, bias=False)
        self.norm = nn.BatchNorm2d(hidden)
        self.value = nn.Conv2d(hidden, 1, 1, bias=False)
        self.initialise()

    def project(self, features: Tensor) -> tuple[Tensor, ...]:
        """The image's half of queries and keys, the partner's half, and hidden values: one convolution for both calls.

        Scaling and the choice of partners commute with 1x1 convolutions.
        """
        pair = torch.cat((self.query.weight, self.key.weight))
        weight = torch.cat((pair[:, : self.channels], pair[:, self.channels :], self.hidden.weight))
        projected = F.conv2d(self.normalised(features), weight)
        return projected.split((pair.shape[0], pair.shape[0], self.hidden.out_channels), 1)

    def logits(self, projected: Sequence[Tensor], draw: Draw) -> Tensor:
        """Logits [N,1,h,w]; row i of the attention is position i of the pair, image and partner together."""
        ratio = rescaled(draw.lam, self.lam_mul_k)
        own_scale, partner_scale = 1 + ratio * self.lam_mul, 1 + (1 - ratio) * self.lam_mul
        own, partner, hidden = projected
        pair = own_scale * own + partner_scale * partner.index_select(0, draw.partner)
        assert self.query.bias is not None
        assert self.key.bias is not None
        queries, keys = (pair + torch.cat((self.query.bias, self.key.bias))[:, None, None]).chunk(2, 1)
        return cross_attention(queries, keys, self._values(partner_scale * hidden.index_select(0, draw.partner), draw))

    def _values(self, hidden: Tensor, draw: Draw) -> Tensor:
        values: Tensor = self.value(F.elu(self.norm(hidden)))
        if not (self.training and self.dropout and draw.noise is not None):
            return values
        noise = torch.rand(values.shape, dtype=torch.float32, device=values.device, generator=draw.noise)
        return values * (noise >= self.dropout) / (1 - self.dropout)
