"""Frozen teachers: a second network, from timm, from a file, or ready made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mixcore.errors import ConfigError
from mixcore.types import Part, Stage, Task

__all__ = ["load_teacher"]


def load_teacher(
    teacher: str | nn.Module,
    *,
    task: Task,
    weights: str | None = None,
    stages: Sequence[Stage] = (),
    **options: Any,
) -> Part:
    """A part that is frozen, stays in eval mode, and is not in checkpoints: it comes from a file of its own.

    `teacher` is a timm model name, built for the task's classes and channels with timm's further `options`, or a
    network. `weights` is a file of tensors: a state dict (torch or safetensors; bare, or under "state_dict" or
    "model"), or a checkpoint of a mixcore run, of which the network is taken; without it a timm model gets its
    published weights. `stages` are read from it. ConfigError for an unknown model, for weights that are missing or of
    another network, and for published weights of other classes.
    """
    network = teacher if isinstance(teacher, nn.Module) else _timm_model(teacher, task, weights is None, options)
    if weights is not None:
        _load(network, Path(weights))
    network.requires_grad_(False).eval()
    return Part(module=network, optimizer=None, eval=True, save=False, stages=tuple(stages))


def _timm_model(name: str, task: Task, pretrained: bool, options: Mapping[str, Any]) -> nn.Module:
    import timm

    if not timm.is_model(name):
        raise ConfigError(
            f"teacher {name!r} is no model of timm; timm.list_models() lists them. For a network of another origin, "
            "name its architecture as the teacher and its file as the weights"
        )
    if pretrained:
        config = timm.get_pretrained_cfg(name)
        if config is None or not config.has_weights:
            raise ConfigError(f"timm publishes no weights of teacher {name!r}; name a file of weights")
        if config.num_classes != task.num_classes:
            raise ConfigError(
                f"timm's weights of teacher {name!r} are for {config.num_classes} classes, the task has "
                f"{task.num_classes}; train one on this task and name its checkpoint as the weights"
            )
    try:
        network: nn.Module = timm.create_model(
            name, pretrained=pretrained, num_classes=task.num_classes, in_chans=task.in_channels, **options
        )
    except Exception as error:  # timm raises what its downloads, its constructors and torch raise
        raise ConfigError(f"timm cannot build teacher {name!r}: {error}") from error
    return network


def _load(network: nn.Module, path: Path) -> None:
    state = _network_state(_read(path))
    own = network.state_dict()
    faults = [
        *(f"{name} is missing" for name in own.keys() - state.keys()),
        *(f"{name} is unknown" for name in state.keys() - own.keys()),
        *(
            f"{name} has shape {list(state[name].shape)}, expected {list(own[name].shape)}"
            for name in own.keys() & state.keys()
            if state[name].shape != own[name].shape
        ),
    ]
    if faults:
        more = f" and {len(faults) - 3} more" if len(faults) > 3 else ""
        raise ConfigError(
            f"teacher weights {path} do not fit a {type(network).__name__}: {'; '.join(sorted(faults)[:3])}{more}; "
            "name the architecture that the file was saved from"
        )
    network.load_state_dict(state)


def _read(path: Path) -> Mapping[str, Any]:
    if not path.is_file():
        raise ConfigError(f"teacher weights {path} do not exist; paths are relative to the working directory")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a file that is none of these raises whatever its first bytes lead to
        raise ConfigError(f"teacher weights {path} cannot be read: {error}") from error
    if not isinstance(found, Mapping):
        raise ConfigError(f"teacher weights {path} hold a {type(found).__name__}, expected a state dict")
    return found


def _network_state(found: Mapping[str, Any]) -> dict[str, Tensor]:
    """The tensors of the network, under its own names."""
    if isinstance(found.get("step"), Mapping):
        found = {name: value for name, value in found["step"].items() if name.startswith("model.")}
        prefix = "model."
    else:
        found = next((found[key] for key in ("state_dict", "model") if isinstance(found.get(key), Mapping)), found)
        prefix = "module." if found and all(name.startswith("module.") for name in found) else ""
    return {name.removeprefix(prefix): value for name, value in found.items() if isinstance(value, Tensor)}
