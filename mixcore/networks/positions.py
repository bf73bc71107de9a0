"""A network's head, asked at every position of a feature map in place of once for the whole map."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from mixcore.networks.layout import as_map, is_channels_last, prefix_tokens

__all__ = ["head_of_positions", "position_logits"]


def position_logits(module: nn.Module, features: Tensor, height: int, width: int) -> Tensor:
    """[N,K,h,w]: what the head of `module` makes of each position alone, for images of `height` x `width` pixels.

    `features` are as forward_features gave them. Every position stands for a whole map, so that pooling leaves it as it
    is, and norms and the classifier of the head act on it: of a network that averages over positions, the mean of these
    logits is the logit wherever the head has no norm.
    """
    maps = as_map(module, features, height, width)
    rows, channels, h, w = maps.shape
    positions = maps.permute(0, 2, 3, 1).reshape(rows * h * w, channels)
    logits = head_of_positions(module, features, positions)
    return logits.unflatten(0, (rows, h, w)).permute(0, 3, 1, 2)


def head_of_positions(module: nn.Module, features: Tensor, positions: Tensor, *, pre_logits: bool = False) -> Tensor:
    """[n,K]: what the head of `module` makes of each of `positions` [n,C] alone, in the module's present mode.

    A position is any vector such as stands in the `features` that forward_features gave, a mean over some of them, say.
    With `pre_logits` the input [n,D] of the classifier: behind the norms that the head has, for a classifier of
    another's. Of a network with two classifiers (a distilled one) the logits are the mean of both, as in its forward.
    """
    network: Any = module
    found: Tensor = network.forward_head(_alone(module, features, positions), pre_logits=pre_logits)
    return found


def _alone(module: nn.Module, features: Tensor, positions: Tensor) -> Tensor:
    """Each of `positions` [n,C] as the features of an image of its own, in the layout of `features`.

    A head takes tokens by their place, the class token or the patches, so here a position stands in all places.
    """
    if features.ndim == 3:
        return positions[:, None].expand(-1, prefix_tokens(module) + 1, -1)
    return positions[:, None, None] if is_channels_last(module) else positions[:, :, None, None]
