"""Vision transformers that merge tokens whenever they run, and their attention as told to other plugins."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import attrs
import torch
from attrs.validators import ge, lt
from torch import Tensor, nn

from mixcore.api import Attention, AttentionTap, ConfigError, hookimpl
from mixcore_plugin_mergemix.blocks import MergingAttention, check_blocks, pass_block
from mixcore_plugin_mergemix.merging import USUAL_PATCHES, Tokens, scaled_schedule

__all__ = ["MergedTap", "MergingBlocks", "PlacedAttention", "TokenMerging", "merge_tokens"]


class MergingBlocks(nn.Sequential):
    """The blocks of a vision transformer with tokens merged in between; what comes out stands in all old places."""

    merge_num: int

    def forward(self, tokens: Tensor) -> Tensor:
        """[B,L+1,D] to [B,L+1,D], in which the patches of one token are equal."""
        passing = Tokens.whole(tokens)
        for block, count in zip(self, scaled_schedule(len(self), self.merge_num, tokens.shape[1] - 1), strict=True):
            attention: Any = block.attn
            attention.places(passing.places)
            passing = pass_block(block, passing, count)
        return passing.spread(passing.values)


def merge_tokens(model: nn.Module, merge_num: int = 98) -> nn.Module:
    """timm's vision transformer, in place, with `merge_num` of 196 patches merged in every forward.

    Parameters and their names stay. ConfigError for a network of another kind.
    """
    check_blocks(model, "token_merging")
    network: Any = model
    network.blocks.__class__ = MergingBlocks
    network.blocks.merge_num = merge_num
    for block in network.blocks:
        block.attn.__class__ = MergingAttention
        block.attn.places = nn.Identity()
    network.set_grad_checkpointing = _no_checkpointing
    return model


def _no_checkpointing(enable: bool = True) -> None:
    if enable:
        raise ConfigError(
            "activation checkpointing repeats the blocks one by one, and token_merging merges between them; set "
            "[train] checkpoint = false, or leave token_merging out"
        )


@attrs.frozen(eq=False, kw_only=True)
class PlacedAttention(Attention):
    """Attention between merged tokens, as one between those that they are made of: each has an equal part of its own.

    `places` int64 [M,P+T] says which of the T' queries and keys each token is in.
    """

    places: Tensor

    def _sizes(self) -> Tensor:
        """[M,T'], of how many tokens each is made."""
        ones = torch.ones_like(self.places, dtype=torch.float32)
        return ones.new_zeros(ones.shape[0], self.queries.shape[2]).scatter_add_(1, self.places, ones)

    def _shared(self, columns: Tensor) -> Tensor:
        """What falls on merged tokens, [M,T'], divided among their patches: [M,T]."""
        return (columns / self._sizes()).gather(1, self.places)[:, self.prefix :]

    def row(self) -> Tensor:
        """[M,T] attention that the class token pays to the patches."""
        return self._shared(self._rows(self.queries[:, :, :1])[:, 0])

    def received(self) -> Tensor:
        """[M,T] attention that each patch receives from all patches, averaged over them."""
        asking = self._sizes()
        asking[:, : self.prefix] = 0
        asking = asking / asking.sum(1, keepdim=True)
        return self._shared((asking[:, None] @ self._rows(self.queries))[:, 0])

    def apply(self, weights: Tensor) -> Tensor:
        """A w in float32, for `weights` [M,P+T] or several at once [M,P+T,S]."""
        values = weights.float().reshape(*weights.shape[:2], -1)
        places = self.places[..., None].expand_as(values)
        sizes = self._sizes()[..., None]
        means = values.new_zeros(*sizes.shape[:2], values.shape[2]).scatter_add_(1, places, values) / sizes
        return super().apply(means).gather(1, places).reshape(weights.shape)


class MergedTap(AttentionTap):
    """Reads the attention of blocks between which tokens are merged."""

    @staticmethod
    def reads(module: nn.Module) -> bool:
        """Blocks that :func:`merge_tokens` has changed."""
        return type(module) is MergingAttention

    def connect(self, module: nn.Module, _model: nn.Module, /) -> None:
        """Queries and keys behind their norms, and where tokens have gone."""
        self._scale = float(module.scale)  # type: ignore[arg-type]
        self.keep_output("queries", module.get_submodule("q_norm"))
        self.keep_output("keys", module.get_submodule("k_norm"))
        self.keep_output("places", module.get_submodule("places"))

    def attention(self) -> PlacedAttention:
        """Over all tokens, with the class token."""
        return PlacedAttention(
            queries=self.kept("queries"),
            keys=self.kept("keys"),
            scale=self._scale,
            prefix=1,
            places=self.kept("places"),
        )


@attrs.define(eq=False, kw_only=True)
class TokenMerging:
    """The backbone, a vision transformer, merges similar tokens in every forward, of training and of evaluation."""

    merge_num: int = attrs.field(default=98, validator=[ge(0), lt(USUAL_PATCHES)])
    """Tokens that are merged away in all blocks together, of 196 patches; in proportion where there are others."""

    @hookimpl(wrapper=True)
    def build_backbone(self) -> Generator[None, nn.Module, nn.Module]:
        """The network that the owner of [backbone] built, with tokens merged between its blocks."""
        return merge_tokens((yield), self.merge_num)
