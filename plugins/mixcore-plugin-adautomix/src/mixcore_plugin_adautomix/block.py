"""AdAutoMix's block: each image asks all others which of its positions to show. Letters: S images, d width of the keys.

"Adversarial AutoMixup", ICLR 2024, arXiv 2312.11954.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from mixcore_plugin_automix import LearnedBlock, Upsample, cross_attention, enlarged
from torch import Tensor, nn

from mixcore_plugin_adautomix.sources import SourcesDraw

__all__ = ["AdAutoMixBlock"]


class AdAutoMixBlock(LearnedBlock[SourcesDraw]):
    """Symmetric in its S images: u_i = softmax(sum over j ≠ i of q_i k_jᵀ / sqrt(d)) v_i, masks a softmax over i of u.

    The weights of u_i are indexed by positions of the others, the values by those of image i itself, as published.
    2(C'·d + d) + C' + 1 parameters, C' = C, with `lam_concat` C + 1: the ratio is then one more constant channel. With
    `batch_norm` queries and keys are normalised in place of having a bias.
    """

    def __init__(
        self,
        channels: int,
        *,
        reduction: int = 2,
        lam_concat: bool = False,
        batch_norm: bool = False,
        layer_norm: bool = False,
    ) -> None:
        super().__init__(layer_norm)
        self.channels, self.lam_concat = channels, lam_concat
        seen, width = channels + lam_concat, max(channels // reduction, 1)
        self.query = nn.Conv2d(seen, width, 1, bias=not batch_norm)
        self.key = nn.Conv2d(seen, width, 1, bias=not batch_norm)
        self.value = nn.Conv2d(seen, 1, 1)
        self.query_norm = nn.BatchNorm2d(width) if batch_norm else nn.Identity()
        self.key_norm = nn.BatchNorm2d(width) if batch_norm else nn.Identity()
        self.initialise()

    def project(self, features: Tensor) -> tuple[Tensor, ...]:
        """Queries, keys and values of all images by one convolution: it commutes with the choice of sources."""
        parts = (self.query, self.key, self.value)
        weight = torch.cat([part.weight for part in parts])[:, : self.channels]
        return F.conv2d(self.normalised(features), weight).split([part.out_channels for part in parts], 1)

    def logits(self, projected: Sequence[Tensor], call: SourcesDraw) -> Tensor:
        """Logits [N,S,h,w] of each image's weight; S products of scores, by the sum of all keys less the own."""
        if self.lam_concat:
            made = [self._activated(projected, lam) for lam in call.lams]
        else:
            made = [self._activated(projected, None)] * len(call.lams)
        sources = [
            [part.index_select(0, rows) for part in parts] for parts, rows in zip(made, call.sources, strict=True)
        ]
        all_keys = functools.reduce(operator.add, [keys for _, keys, _ in sources])
        return torch.cat([cross_attention(queries, all_keys - keys, values) for queries, keys, values in sources], 1)

    def shares(self, logits: Tensor, size: tuple[int, int], mode: Upsample) -> Tensor:
        """Masks [N,S,H,W] that sum to 1 over the images."""
        return enlarged(logits, size, mode).softmax(1)

    def _activated(self, projected: Sequence[Tensor], lam: float | None) -> tuple[Tensor, Tensor, Tensor]:
        """Queries and keys after norm and ReLU, and values, of all images as sources of ratio `lam`."""
        parts = (self.query, self.key, self.value)
        queries, keys, values = (_shifted(made, part, lam) for made, part in zip(projected, parts, strict=True))
        return F.relu(self.query_norm(queries)), F.relu(self.key_norm(keys)), values


def _shifted(made: Tensor, part: nn.Conv2d, lam: float | None) -> Tensor:
    """With what the convolution adds at every position: its bias, and the last channel's weights times `lam`."""
    if part.bias is not None:
        made = made + part.bias[:, None, None]
    return made if lam is None else made + lam * part.weight[:, -1]
