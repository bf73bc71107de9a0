"""MergeMix for mixcore: the most attended patches are kept, as a pass that merges similar tokens sees them."""

from __future__ import annotations

from mixcore_plugin_mergemix.backbone import MergedTap, PlacedAttention, TokenMerging, merge_tokens
from mixcore_plugin_mergemix.blocks import check_blocks, pass_block
from mixcore_plugin_mergemix.merging import Tokens, merge_map, merge_schedule
from mixcore_plugin_mergemix.mixer import MergeMix, drawn_weights, keep_salient, mergemix
from mixcore_plugin_mergemix.saliency import MergedAttention, merged_attention
from mixcore_plugin_mergemix.version import __version__

__all__ = [
    "MergeMix",
    "MergedAttention",
    "MergedTap",
    "PlacedAttention",
    "TokenMerging",
    "Tokens",
    "__version__",
    "check_blocks",
    "drawn_weights",
    "keep_salient",
    "merge_map",
    "merge_schedule",
    "merge_tokens",
    "merged_attention",
    "mergemix",
    "pass_block",
]
