"""Feature maps in one layout, whatever the network puts out: NCHW, NHWC (Swin), or tokens with or without prefix."""

from __future__ import annotations

from torch import Tensor, nn

from mixcore.errors import MixcoreError

__all__ = ["FLATTEN", "as_map", "as_tokens", "grid_of", "is_channels_last", "patch_side", "prefix_tokens", "token_grid"]

FLATTEN = "flatten"
"""The `global_pool` of a head that reads all positions in a row, each with weights of its own: timm has none such."""
USUAL_GRID = 14
"""Patches a side of the published vision transformers, 16 pixels of 224."""


def prefix_tokens(model: nn.Module) -> int:
    """P: class, distillation and register tokens that stand before the patch tokens; 0 where there are none."""
    return int(getattr(model, "num_prefix_tokens", 0) or 0)


def patch_side(model: nn.Module) -> int | None:
    """Side in pixels of the patches that a network keeps from its first stage to its last, as ViT and DeiT do.

    None for one whose maps shrink from stage to stage, and for one that does not say (`feature_info`).
    """
    stages = getattr(model, "feature_info", None) or ()
    entries = stages.get_dicts() if hasattr(stages, "get_dicts") else stages
    sides = {entry.get("reduction") if isinstance(entry, dict) else None for entry in entries}
    side = sides.pop() if len(sides) == 1 else None
    return side if isinstance(side, int) else None


def token_grid(patch: int | None, height: int, width: int) -> tuple[int, int]:
    """The grid (h, w) of patches of an image of `height` x `width` pixels, for methods that work on whole patches.

    `patch` pixels a side, such as :func:`patch_side`; None: 14 patches a side. What is left over at the end belongs to
    the patches before it: `cells_to_pixels` makes some of them a pixel larger.
    """
    if patch is None:
        return min(USUAL_GRID, height), min(USUAL_GRID, width)
    return max(1, height // patch), max(1, width // patch)


def grid_of(tokens: int, height: int, width: int) -> tuple[int, int]:
    """The grid (h, w) of `tokens` patches of an image of `height` x `width` pixels: h·w = tokens, as wide as the image.

    MixcoreError where no such grid exists.
    """
    rows = max(1, round((tokens * height / width) ** 0.5))
    if tokens % rows:
        raise MixcoreError(f"{tokens} tokens form no grid of the shape of a {height}x{width} image")
    return rows, tokens // rows


def as_map(model: nn.Module, raw: Tensor, height: int, width: int) -> Tensor:
    """Output of a stage of `model` as [M,C,h,w], for images of `height` x `width` pixels.

    Takes [M,C,h,w], [M,h,w,C] of networks whose `output_fmt` is NHWC, and tokens [M,P+T,C], whose prefix is dropped.
    """
    if raw.ndim == 4:
        return raw.permute(0, 3, 1, 2) if is_channels_last(model) else raw
    if raw.ndim == 3:
        patches = _patches(model, raw, height, width)
        rows, columns = grid_of(patches.shape[1], height, width)
        return patches.transpose(1, 2).unflatten(2, (rows, columns))
    raise MixcoreError(f"a stage that put out {list(raw.shape)} is no feature map; expected 3 or 4 dimensions")


def as_tokens(model: nn.Module, raw: Tensor) -> Tensor:
    """Output of forward_features as [M,T,D]: final positions in row order, without prefix tokens."""
    if raw.ndim == 4:
        return raw.flatten(1, 2) if is_channels_last(model) else raw.flatten(2).transpose(1, 2)
    if raw.ndim == 3:
        return raw[:, prefix_tokens(model) :]
    raise MixcoreError(f"{type(model).__name__} puts out {list(raw.shape)}, which has no positions")


def _patches(model: nn.Module, raw: Tensor, height: int, width: int) -> Tensor:
    """Tokens without prefix. In networks whose class token joins late (CaiT) early blocks have no prefix to drop."""
    prefix = prefix_tokens(model)
    if prefix and _is_grid(raw.shape[1], height, width) and not _is_grid(raw.shape[1] - prefix, height, width):
        return raw
    return raw[:, prefix:]


def _is_grid(tokens: int, height: int, width: int) -> bool:
    rows = round((tokens * height / width) ** 0.5)
    return rows > 0 and rows * rows * width == tokens * height


def is_channels_last(model: nn.Module) -> bool:
    """Whether feature maps come as [M,h,w,C]."""
    return getattr(model, "output_fmt", "NCHW") == "NHWC"
