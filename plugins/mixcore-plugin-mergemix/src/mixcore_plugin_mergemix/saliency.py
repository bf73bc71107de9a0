"""Saliency by the attention of condensed tokens: MergeMix, arXiv 2510.23479."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import attrs
import torch
from attrs.validators import ge, in_, lt, optional
from torch import Tensor, nn
from torch.nn import functional as F

from mixcore.api import Attention, ConfigError, Part, Probe, grid_of, hookimpl
from mixcore_plugin_mergemix.blocks import check_blocks, embedded, kept_output, pass_block
from mixcore_plugin_mergemix.merging import USUAL_PATCHES, Tokens, scaled_schedule

__all__ = ["MergedAttention", "merged_attention"]

Direction = Literal["class_to_patches", "patches_to_class"]


def merged_attention(
    model: nn.Module, images: Tensor, merge_num: int, layer: int, direction: Direction = "class_to_patches"
) -> Tensor:
    """[N,L] attention in block number `layer`, from 0, when `merge_num` of 196 patches are merged in all blocks.

    Each patch has the value of the token that it is a part of where the block begins (steps 2 and 3 of the method).
    `model` is timm's vision transformer, as it runs now; the pass ends at that block.
    """
    network: Any = model
    tokens = Tokens.whole(embedded(model, images))
    schedule = scaled_schedule(len(network.blocks), merge_num, tokens.places.shape[1] - 1)
    for number in range(layer):
        tokens = pass_block(network.blocks[number], tokens, schedule[number])
    block = network.blocks[layer]
    with kept_output(block.attn.q_norm) as queries, kept_output(block.attn.k_norm) as keys:
        block.attn(block.norm1(tokens.values))
    attention = Attention(queries[0], keys[0], float(block.attn.scale), prefix=1)
    if direction == "class_to_patches":
        found = F.pad(attention.row(), (1, 0))
    else:
        class_alone = F.pad(torch.ones_like(tokens.sizes[:, :1, 0]), (0, tokens.sizes.shape[1] - 1))
        found = attention.apply(class_alone)
    return tokens.spread(found)[:, 1:]


@attrs.define(eq=False, kw_only=True)
class MergedAttention:
    """Attention of the class token in a pass that merges similar tokens; merged patches have one value."""

    role = "saliency"
    spec_version = (1, 2)
    needs = frozenset({"attention"})

    merge_num: int = attrs.field(default=98, validator=[ge(0), lt(USUAL_PATCHES)])
    """Tokens that are merged away in all blocks together, of 196 patches; in proportion where there are others."""
    layer: int | None = attrs.field(default=None, validator=optional(ge(0)))
    """Block whose attention is read, counted from 0; absent: two thirds of the way, 8 of 12."""
    direction: Direction = attrs.field(
        default="class_to_patches", validator=in_(("class_to_patches", "patches_to_class"))
    )
    """What the class token pays to each patch, or each patch to the class token (OpenMixup, for reproduction)."""

    @hookimpl
    def build_modules(self, model: nn.Module) -> Mapping[str, Part]:
        """Nothing; refuses a network whose blocks it cannot pass one by one, or that lacks the one to read."""
        check_blocks(model, "merged_attention")
        network: Any = model
        if self.layer is not None and self.layer >= len(network.blocks):
            raise ConfigError(
                f"merged_attention reads block layer = {self.layer}, and {type(model).__name__} has blocks 0 to "
                f"{len(network.blocks) - 1}; choose one of these, or leave layer out"
            )
        return {}

    @hookimpl
    def map_saliency(self, images: Tensor, probe: Probe) -> Tensor:
        """[N,h,w], from a part of one forward."""
        with probe.looking() as model:
            network: Any = model
            layer = 2 * len(network.blocks) // 3 if self.layer is None else self.layer
            found = merged_attention(model, images, self.merge_num, layer, self.direction)
        return found.unflatten(1, grid_of(found.shape[1], *images.shape[-2:]))
