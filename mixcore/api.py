"""The one door for plugin authors: everything that a plugin imports from mixcore.

>>> from mixcore.api import Mix, hookimpl
"""

from __future__ import annotations

from mixcore.autocast import autocast_off
from mixcore.children import threads_each
from mixcore.errors import ConfigError, DataError, MixcoreError, OptionValueError, UnreadableSampleError
from mixcore.evidence.probe import SALIENCY, Probe, saliency_needs, saliency_stages
from mixcore.evidence.saliency import fine_grained, grey, spectral_residual
from mixcore.evidence.settle import settle
from mixcore.evidence.sources import LAST_STAGE, attention_of, energy_of, gradient_magnitude
from mixcore.hooks.markers import hookimpl
from mixcore.hooks.version import SPEC_VERSION
from mixcore.job import RunJob
from mixcore.networks.attention import AttentionTap
from mixcore.networks.backbone import as_backbone
from mixcore.networks.classifier import class_count, classifiers
from mixcore.networks.interface import logits_of
from mixcore.networks.layout import as_map, grid_of, is_channels_last, patch_side, prefix_tokens, token_grid
from mixcore.networks.network import capabilities
from mixcore.networks.positions import head_of_positions, position_logits
from mixcore.networks.shapes import head_width, stage_shape
from mixcore.networks.stages import stage_names
from mixcore.networks.teacher import load_teacher
from mixcore.networks.weights import load_weights, mismatches, read_weights, refuse_weight_options
from mixcore.networks.windows import WindowAttention
from mixcore.ops.attended import attended_weights
from mixcore.ops.augment import CropFlip, PaddingMode, crop_flip
from mixcore.ops.blocks import block_shares, cells_to_pixels, combine_blocks
from mixcore.ops.boxes import (
    Box,
    BoxRule,
    box_around,
    box_lam,
    box_mask,
    boxes_around,
    boxes_inside,
    boxes_lam,
    boxes_lines,
    boxes_mask,
    boxes_of_sides,
    crossings,
    crossings_mask,
)
from mixcore.ops.classes import merge_classes
from mixcore.ops.combine import (
    blend,
    blended,
    paste_box,
    paste_boxes,
    pasted,
    select_boxes,
    select_pixels,
    slice_boxes,
    slice_patches,
    slices_win,
    take_rows,
    unmixed,
)
from mixcore.ops.draws import beta, beta_per_sample, dirichlet, happens, send, uniforms
from mixcore.ops.features import blend_features, blended_at, mixed_at, permute_features
from mixcore.ops.maps import gaussian_blur, resize_maps
from mixcore.ops.partners import PartnerRule, draw_partners
from mixcore.ops.transport import transport_blocks
from mixcore.options import PLACE, Saliency, all_positive, as_saliency, early_stages, range_of_shares
from mixcore.rng import keyed_generator
from mixcore.types import (
    Attention,
    Augment,
    Batch,
    Data,
    ForwardOutput,
    Metric,
    Mix,
    Part,
    Resident,
    RunData,
    Step,
    Targets,
    Task,
    Track,
)

__all__ = [
    "LAST_STAGE",
    "PLACE",
    "SALIENCY",
    "SPEC_VERSION",
    "Attention",
    "AttentionTap",
    "Augment",
    "Batch",
    "Box",
    "BoxRule",
    "ConfigError",
    "CropFlip",
    "Data",
    "DataError",
    "ForwardOutput",
    "Metric",
    "Mix",
    "MixcoreError",
    "OptionValueError",
    "PaddingMode",
    "Part",
    "PartnerRule",
    "Probe",
    "Resident",
    "RunData",
    "RunJob",
    "Saliency",
    "Step",
    "Targets",
    "Task",
    "Track",
    "UnreadableSampleError",
    "WindowAttention",
    "all_positive",
    "as_backbone",
    "as_map",
    "as_saliency",
    "attended_weights",
    "attention_of",
    "autocast_off",
    "beta",
    "beta_per_sample",
    "blend",
    "blend_features",
    "blended",
    "blended_at",
    "block_shares",
    "box_around",
    "box_lam",
    "box_mask",
    "boxes_around",
    "boxes_inside",
    "boxes_lam",
    "boxes_lines",
    "boxes_mask",
    "boxes_of_sides",
    "capabilities",
    "cells_to_pixels",
    "class_count",
    "classifiers",
    "combine_blocks",
    "crop_flip",
    "crossings",
    "crossings_mask",
    "dirichlet",
    "draw_partners",
    "early_stages",
    "energy_of",
    "fine_grained",
    "gaussian_blur",
    "gradient_magnitude",
    "grey",
    "grid_of",
    "happens",
    "head_of_positions",
    "head_width",
    "hookimpl",
    "is_channels_last",
    "keyed_generator",
    "load_teacher",
    "load_weights",
    "logits_of",
    "merge_classes",
    "mismatches",
    "mixed_at",
    "paste_box",
    "paste_boxes",
    "pasted",
    "patch_side",
    "permute_features",
    "position_logits",
    "prefix_tokens",
    "range_of_shares",
    "read_weights",
    "refuse_weight_options",
    "resize_maps",
    "saliency_needs",
    "saliency_stages",
    "select_boxes",
    "select_pixels",
    "send",
    "settle",
    "slice_boxes",
    "slice_patches",
    "slices_win",
    "spectral_residual",
    "stage_names",
    "stage_shape",
    "take_rows",
    "threads_each",
    "token_grid",
    "transport_blocks",
    "uniforms",
    "unmixed",
]
