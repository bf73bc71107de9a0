"""The blocks of timm's vision transformers, passed one by one with tokens merged in between."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import attrs
from timm.layers.attention import Attention as TimmAttention
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn

from mixcore.api import ConfigError
from mixcore_plugin_mergemix.merging import Tokens

__all__ = ["MergingAttention", "check_blocks", "embedded", "kept_output", "pass_block"]


class MergingAttention(TimmAttention):
    """timm's attention over tokens some of which are merged: `places` is given where the others have gone."""

    places: nn.Identity


ATTENTION = (TimmAttention, MergingAttention)


def check_blocks(model: nn.Module, whose: str) -> None:
    """Refuse a network other than timm's vision transformer of plain blocks with one class token. ConfigError."""
    if not isinstance(model, VisionTransformer):
        found = type(model).__name__
    elif model.num_prefix_tokens != 1 or model.cls_token is None:
        found = f"{type(model).__name__} with {model.num_prefix_tokens} tokens before its patches"
    elif any(type(block) is not Block or type(block.attn) not in ATTENTION for block in model.blocks):
        found = f"{type(model).__name__} with blocks of another kind"
    else:
        return
    raise ConfigError(
        f"{whose} merges tokens of timm's vision transformers (ViT, DeiT) that have a class token and no other before "
        f"the patches, and this is a {found}; use such a [backbone], as vit_tiny_patch16_224, or another saliency"
    )


def embedded(model: nn.Module, images: Tensor) -> Tensor:
    """What the first block of timm's vision transformer is given for `images` [B,C,H,W]: [B,L+1,D]."""
    network: Any = model
    tokens: Tensor = network.norm_pre(network.patch_drop(network._pos_embed(network.patch_embed(images))))
    return tokens


@contextmanager
def kept_output(module: nn.Module) -> Iterator[list[Tensor]]:
    """What `module` puts out inside of the context, in the order of its calls."""
    kept: list[Tensor] = []
    handle = module.register_forward_hook(lambda _module, _given, output: kept.append(output))
    try:
        yield kept
    finally:
        handle.remove()


def pass_block(block: nn.Module, tokens: Tokens, count: int) -> Tokens:
    """One block; between its attention and its MLP `count` tokens are merged away, alike by the mean key of heads."""
    parts: Any = block
    before = tokens.values
    with kept_output(parts.attn.k_norm) as keys:
        values = before + parts.drop_path1(parts.ls1(parts.attn(parts.norm1(before))))
    tokens = attrs.evolve(tokens, values=values).merged(keys[0].detach().mean(1), count)
    values = tokens.values
    return attrs.evolve(tokens, values=values + parts.drop_path2(parts.ls2(parts.mlp(parts.norm2(values)))))
