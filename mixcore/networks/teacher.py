"""Frozen teachers: a second network, from timm, from a file, or ready made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from mixcore.errors import ConfigError
from mixcore.networks.weights import mismatches, read_weights, refuse_weight_options
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

    refuse_weight_options(options, f"teacher {name!r}", "name the file as the teacher's weights")
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
    state = read_weights(path, "teacher weights")
    faults = mismatches(network, state)
    if faults:
        more = f" and {len(faults) - 3} more" if len(faults) > 3 else ""
        raise ConfigError(
            f"teacher weights: {path} does not fit a {type(network).__name__}: {'; '.join(faults[:3])}{more}; "
            "name the architecture that the file was saved from"
        )
    network.load_state_dict(state)
