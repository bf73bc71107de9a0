"""The Mix Block: from a feature map of two images and lam to the mask that mixes them.

Letters: d width of queries and keys, n = h·w positions of the feature map.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Generic, TypeVar

import attrs
import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from mixcore_plugin_automix.masks import Upsample, masks_of_logits

__all__ = ["AutoMixBlock", "Call", "Draw", "LearnedBlock", "MixBlock", "cross_attention"]

LARGEST = 1e25
"""Attention scores are cut to this magnitude, so that an overflow gives a mask and not NaN."""


@attrs.frozen(eq=False, kw_only=True)
class Call:
    """What any call of a block is told; who is mixed, and by which ratios, is for each kind of block to add."""

    upsample: Upsample = "nearest"
    """How the masks are enlarged."""


@attrs.frozen(eq=False, kw_only=True)
class Draw(Call):
    """A call for pairs: the ratio, and who is mixed with whom [N]."""

    lam: float
    partner: Tensor
    noise: Generator | None = None
    """Where dropout draws from; None: the block drops nothing."""


CallT = TypeVar("CallT", bound=Call)


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


class LearnedBlock(nn.Module, Generic[CallT]):
    """What all blocks share: masks for two calls from one projection of the map, the second without a graph.

    `dropped` counts loss terms of the block that were NaN and left out.
    """

    dropped: Tensor

    def __init__(self, layer_norm: bool) -> None:
        super().__init__()
        self.layer_norm = layer_norm
        self.register_buffer("dropped", torch.zeros((), dtype=torch.int64))

    def initialise(self) -> None:
        """All convolutions Normal(0, 0.01), biases 0: at the start masks are near equal shares."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, std=0.01)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def project(self, features: Tensor) -> tuple[Tensor, ...]:
        """What all calls share, from the map [N,C,h,w] of the unmixed images; may run under autocast."""
        raise NotImplementedError

    def logits(self, projected: Sequence[Tensor], call: CallT) -> Tensor:
        """What the masks are made of, at the resolution of the map."""
        raise NotImplementedError

    def shares(self, logits: Tensor, size: tuple[int, int], mode: Upsample) -> Tensor:
        """Masks at the size of the images, source 0 first, from the logits."""
        raise NotImplementedError

    def normalised(self, features: Tensor) -> Tensor:
        """The map, normalised over its channels (without learnt weights) where the option says so."""
        if not self.layer_norm:
            return features
        channels = features.shape[1:2]
        return F.layer_norm(features.movedim(1, -1).float(), channels).movedim(-1, 1)

    def masks(
        self, projected: Sequence[Tensor], learns: CallT, serves: CallT, size: tuple[int, int]
    ) -> tuple[Tensor, Tensor]:
        """float32 masks for two calls: with the graph that the block learns by, and without one."""
        projected = [full_precision(tensor) for tensor in projected]
        learning = self.shares(self.logits(projected, learns), size, learns.upsample)
        with torch.no_grad():
            serving = self.shares(self.logits(projected, serves), size, serves.upsample)
        return learning, serving

    def preview(self, projected: Sequence[Tensor], call: CallT, size: tuple[int, int]) -> Tensor:
        """Masks in eval mode, the mode restored."""
        was = self.training
        self.eval()
        try:
            logits = self.logits([full_precision(tensor) for tensor in projected], call)
        finally:
            self.train(was)
        return self.shares(logits, size, call.upsample)


class MixBlock(LearnedBlock[Draw]):
    """What the blocks of AutoMix and SAMix share: logits [N,1,h,w] of the partner's weight, one mask per pair."""

    noisy = False
    """Whether the block draws noise at each call."""

    def shares(self, logits: Tensor, size: tuple[int, int], mode: Upsample) -> Tensor:
        """Masks [N,1,H,W] of the image's own weight."""
        return masks_of_logits(logits, size, mode)


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
