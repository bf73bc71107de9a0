"""Feature maps in any layout as vectors at positions, and back."""

from __future__ import annotations

import attrs
import torch
from torch import Tensor, nn

from mixcore.api import MixcoreError, is_channels_last, prefix_tokens

__all__ = ["Layout"]


@attrs.frozen
class Layout:
    """How a network lays out what it gives before its head."""

    prefix: int
    """Class and register tokens before the patch tokens."""
    channels_last: bool
    """Maps come as [N,h,w,C]."""

    @classmethod
    def of(cls, model: nn.Module) -> Layout:
        """That of `model`."""
        return cls(prefix_tokens(model), is_channels_last(model))

    def vectors(self, features: Tensor) -> Tensor:
        """Maps [N,C,h,w] or [N,h,w,C], or tokens [N,P+T,C], as [N,n,C] without prefix, a view.

        MixcoreError for features without positions.
        """
        if features.ndim == 4:
            return features.flatten(1, 2) if self.channels_last else features.flatten(2).transpose(1, 2)
        if features.ndim == 3:
            return features[:, self.prefix :]
        raise MixcoreError(
            f"the network's features are {list(features.shape)}, and alignmix aligns positions of a map [N,C,h,w], "
            "[N,h,w,C] or of tokens [N,P+T,C]; choose a network that pools in its head, or p_align = 0"
        )

    def restored(self, vectors: Tensor, prefix: Tensor, features: Tensor) -> Tensor:
        """Vectors [N,n,C] in layout, dtype and memory format of `features`, behind the `prefix` [N,P,C]."""
        vectors = vectors.to(features.dtype)
        if features.ndim == 3:
            return torch.cat((prefix, vectors), 1)
        if self.channels_last:
            return vectors.view(features.shape)
        last = features.is_contiguous(memory_format=torch.channels_last) and not features.is_contiguous()
        mixed = vectors.transpose(1, 2).unflatten(2, features.shape[2:])
        return mixed.contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)
