"""Sizes of what a network computes, read from a forward and not from what it says of itself."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from mixcore.errors import ConfigError
from mixcore.networks.interface import Passes, has_interface, without_interface
from mixcore.networks.layout import as_map
from mixcore.networks.modes import mode
from mixcore.networks.stages import FEATURES, resolve_stage
from mixcore.types import Stage, Task

__all__ = ["head_width", "stage_shape"]


def stage_shape(model: nn.Module, stage: Stage, task: Task) -> tuple[int, int, int]:
    """(C,h,w) of the map at `stage` of a bare `model` for images of the task's size, from one forward in eval mode.

    For build_modules, before parts have to be sized; the model is left as it was. ConfigError for a stage that the
    network lacks (naming those it has), that a forward never calls, or that puts out something else than a map.
    """
    name = resolve_stage(model, stage)
    height, width = task.image_size
    if name is None:
        return task.in_channels, height, width
    heard: list[Any] = []
    tap = None
    if name != FEATURES:
        tap = model.get_submodule(name).register_forward_hook(lambda _module, _inputs, output: heard.append(output))
    try:
        first = _first_pass(model, task)
    finally:
        if tap is not None:
            tap.remove()
    raw = first if name == FEATURES else next(iter(heard), None)
    if not isinstance(raw, Tensor) or raw.ndim not in (3, 4):
        found = "is not called by a forward" if raw is None else f"puts out {_described(raw)}"
        raise ConfigError(f"stage {stage!r} of {type(model).__name__} {found}; name one that puts out a feature map")
    channels, rows, columns = as_map(model, raw, height, width).shape[1:]
    return channels, rows, columns


def head_width(model: nn.Module, task: Task) -> int:
    """D, the width of the pooled features that a head reads, for a further head beside the network's own.

    ConfigError for a network without timm's interface, whose head reads no features that could be had.
    """
    if not has_interface(model):
        raise ConfigError(f"a further head reads the features of the network; {without_interface(model)}")
    features = _first_pass(model, task)
    with mode(model, False), torch.no_grad():
        pooled: Tensor = Passes(model).head(features, pre_logits=True)
    return pooled.shape[-1]


def _first_pass(model: nn.Module, task: Task) -> Tensor:
    """The features of one image, or the logits of a network whose features cannot be had."""
    like = next(model.parameters())
    image = torch.zeros(1, task.in_channels, *task.image_size, device=like.device, dtype=like.dtype)
    with mode(model, False), torch.no_grad():
        return Passes(model).first(image)


def _described(raw: Any) -> str:
    return f"a tensor of shape {list(raw.shape)}" if isinstance(raw, Tensor) else f"a {type(raw).__name__}"
