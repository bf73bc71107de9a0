"""The Mix Block: from a feature map of two images and lam to the mask that mixes them.

Letters: d width of queries and keys, n = h·w positions of the feature map.
"""

from __future__ import annotations

from collections.abc import Sequence

import attrs
import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from mixcore_plugin_automix.masks import Upsample, masks_of_logits

__all__ = ["AutoMixBlock", "Draw", "MixBlock", "cross_attention", "full_precision"]

LARGEST = 1e25
"""Attention scores are cut to this magnitude, so that an overflow gives a mask and not NaN."""


@attrs.frozen(eq=False, kw_only=True)
class Draw:
    """What one call of the block is told: the ratio, and who is mixed with whom [N]."""

    lam: float
    partner: Tensor
    upsample: Upsample = "nearest"
    """How the mask is enlarged."""
    noise: Generator | None = None
    """Where dropout draws from; None: the block drops nothing."""


def full_precision(tensor: Tensor) -> Tensor:
    """In float32 at least."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def cross_attention(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """softmax(qᵀk / sqrt(d)) v over the positions of the keys, [N,1,h,w].

    `queries` and `keys` [N,d,h,w], `values` [N,1,h,w].
    """
    width = queries.shape[1]
    scores = torch.bmm(queries.flatten(2).transpose(1, 2), keys.flatten(2)) * width**-0.5
    weights = scores.clamp(-LARGEST, LARGEST).softmax(-1)
    return torch.bmm(weights, values.flatten(2).transpose(1, 2)).transpose(1, 2).unflatten(2, values.shape[-2:])


class MixBlock(nn.Module):
    """What the blocks of AutoMix and SAMix share: two masks from one projection, the second without a graph.

    `dropped` counts loss terms of the block that were NaN and left out.
    """

    dropped: Tensor
    noisy = False
    """Whether the block draws noise at each call."""

    def __init__(self, layer_norm: bool) -> None:
        super().__init__()
        self.layer_norm = layer_norm
        self.register_buffer("dropped", torch.zeros((), dtype=torch.int64))

    def initialise(self) -> None:
        """All convolutions Normal(0, 0.01), biases 0: masks start near one half."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, std=0.01)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def project(self, features: Tensor) -> tuple[Tensor, ...]:
        """What all calls share, from the map [N,C,h,w] of the unmixed images; may run under autocast."""
        raise NotImplementedError

    def logits(self, projected: Sequence[Tensor], draw: Draw) -> Tensor:
        """Logits [N,1,h,w] of the partner's weight."""
        raise NotImplementedError

    def normalised(self, features: Tensor) -> Tensor:
        """The map, normalised over its channels (without learnt weights) where the option says so."""
        if not self.layer_norm:
            return features
        channels = features.shape[1:2]
        return F.layer_norm(features.movedim(1, -1).float(), channels).movedim(-1, 1)

    def masks(
        self, projected: Sequence[Tensor], learns: Draw, serves: Draw, size: tuple[int, int]
    ) -> tuple[Tensor, Tensor]:
        """Masks [N,1,H,W] float32 for two draws: with the graph that the block learns by, and without one."""
        projected = [full_precision(tensor) for tensor in projected]
        learning = masks_of_logits(self.logits(projected, learns), size, learns.upsample)
        with torch.no_grad():
            serving = masks_of_logits(self.logits(projected, serves), size, serves.upsample)
        return learning, serving

    def preview(self, projected: Sequence[Tensor], draw: Draw, size: tuple[int, int]) -> Tensor:
        """Masks [N,1,H,W] in eval mode, the mode restored."""
        was = self.training
        self.eval()
        try:
            logits = self.logits([full_precision(tensor) for tensor in projected], draw)
        finally:
            self.train(was)
        return masks_of_logits(logits, size, draw.upsample)


class AutoMixBlock(MixBlock):
    """AutoMix: positions of the image ask those of its partner, one projection for both; values are linear.

    C·d + d + C + 1 parameters, with `lam_concat` d + 1 more: lam is then one more constant channel.
    """

    def __init__(
        self, channels: int, *, reduction: int = 2, lam_concat: bool = False, layer_norm: bool = False
    ) -> None:
        super().__init__(layer_norm)
        self.channels, self.lam_concat = channels, lam_concat
        self.query = nn.Conv2d(channels + lam_concat, max(channels // reduction, 1), 1)
        self.value = nn.Conv2d(channels + lam_concat, 1, 1)
        self.initialise()

    def project(self, features: Tensor) -> tuple[Tensor, ...]:
        """One projection for queries, keys and values: 1x1 convolutions commute with the choice of partners."""
        weight = torch.cat((self.query.weight, self.value.weight))[:, : self.channels]
        return (F.conv2d(self.normalised(features), weight),)

    def logits(self, projected: Sequence[Tensor], draw: Draw) -> Tensor:
        """Logits [N,1,h,w]; the lam channel holds lam beside the image and 1 - lam beside its partner."""
        own, other = projected[0], projected[0].index_select(0, draw.partner)
        shift, slope = self._constants()
        if slope is not None:
            own = own + (shift + draw.lam * slope)
            other = other + (shift + (1 - draw.lam) * slope)
        else:
            own, other = own + shift, other + shift
        width = self.query.out_channels
        return cross_attention(own[:, :width], other[:, :width], other[:, width:])

    def _constants(self) -> tuple[Tensor, Tensor | None]:
        """What is added at every position, and what is added times lam; both [d+1,1,1]."""
        assert self.query.bias is not None
        assert self.value.bias is not None
        shift = torch.cat((self.query.bias, self.value.bias))[:, None, None]
        if not self.lam_concat:
            return shift, None
        return shift, torch.cat((self.query.weight, self.value.weight))[:, self.channels]
