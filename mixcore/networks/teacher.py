"""Frozen teachers: a second network, by any name that `[backbone]` takes, from a file, or ready made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import attrs
from torch import Tensor, nn

from mixcore.errors import ConfigError
from mixcore.networks.classifier import class_count, classes_in
from mixcore.networks.named import backbone_plugin
from mixcore.networks.weights import mismatches, read_weights, refuse_weight_options
from mixcore.types import Part, Stage, Task

__all__ = ["load_teacher"]


def load_teacher(
    teacher: str | nn.Module,
    *,
    task: Task,
    weights: str | None = None,
    classes: Literal["own", "task"] = "task",
    stages: Sequence[Stage] = (),
    attention: bool = False,
    **options: Any,
) -> Part:
    """A part that is frozen, stays in eval mode, and is not in checkpoints: it comes from a file of its own.

    `teacher` is any name that `[backbone]` takes, an installed plugin's or a timm model's, with that plugin's or timm's
    further `options`; or a network. `weights` is a file of tensors: a state dict (torch or safetensors; bare, or under
    "state_dict" or "model"), or a checkpoint of a mixcore run, of which the network is taken; without it a timm model
    gets its published weights. `classes = "own"` keeps the classes that the weights have: read the features of such a
    teacher, never its logits; "task" refuses weights of another number. `stages` and `attention` are read from it.
    ConfigError for an unknown name, for weights that are missing, of another network or of other classes.

    Names of plugins are known where the core calls build_modules; a hook called by hand knows timm's alone.
    """
    network = teacher if isinstance(teacher, nn.Module) else _built(teacher, task, classes, weights is None, options)
    if weights is not None:
        state = read_weights(Path(weights), "teacher weights")
        if isinstance(teacher, str):
            network = _with_classes(teacher, task, classes, classes_in(state, network), options, known=network)
        _load(network, state, weights)
    found = class_count(network)
    if classes == "task" and found is not None and found != task.num_classes:
        raise ConfigError(_of_other_classes(f"the teacher {type(network).__name__} is", found, task))
    network.requires_grad_(False).eval()
    return Part(module=network, optimizer=None, eval=True, save=False, stages=tuple(stages), attention=attention)


def _built(name: str, task: Task, classes: str, published: bool, options: Mapping[str, Any]) -> nn.Module:
    """The network of that name; with its published weights, and then of as many classes as they have, or bare."""
    refuse_weight_options(options, f"teacher {name!r}", "name the file as the teacher's weights")
    if published:
        return _with_classes(name, task, classes, _published_classes(name), options)
    return _bare(name, task, options)


def _with_classes(
    name: str,
    task: Task,
    classes: str,
    found: int | None,
    options: Mapping[str, Any],
    known: nn.Module | None = None,
) -> nn.Module:
    """The network with the `found` classes of its weights; `known` is one with those of the task, for a file's weights.

    ConfigError where the weights are of other classes than the task, and `classes` does not keep them.
    """
    if found is not None and found != task.num_classes:
        if classes == "task":
            raise ConfigError(_of_other_classes(f"the weights of teacher {name!r} are", found, task))
        task = attrs.evolve(task, num_classes=found)
        known = None if known is None else _bare(name, task, options)
    return _published(name, task, options) if known is None else known


def _bare(name: str, task: Task, options: Mapping[str, Any]) -> nn.Module:
    """The network as an installed backbone plugin or timm builds it."""
    network = backbone_plugin(name, task, options)
    return _timm_model(name, task, False, options) if network is None else network


def _published(name: str, task: Task, options: Mapping[str, Any]) -> nn.Module:
    """The network with the weights that timm publishes."""
    if backbone_plugin(name, task, options) is not None:
        raise ConfigError(
            f"the weights of teacher {name!r} are nowhere published; train one and name its checkpoint as the "
            "teacher's weights"
        )
    return _timm_model(name, task, True, options)


def _of_other_classes(what: str, found: int, task: Task) -> str:
    return (
        f"{what} for {found} classes, the task has {task.num_classes}; train one on this task and name its checkpoint "
        'as the weights, or, where its features alone are read, keep its classes: classes = "own"'
    )


def _published_classes(name: str) -> int | None:
    """Classes of the weights that timm publishes under that name; None where it publishes none."""
    import timm

    config = timm.get_pretrained_cfg(name) if timm.is_model(name) else None
    return config.num_classes if config is not None and config.has_weights else None


def _timm_model(name: str, task: Task, pretrained: bool, options: Mapping[str, Any]) -> nn.Module:
    import timm

    if not timm.is_model(name):
        raise ConfigError(
            f"teacher {name!r} is no installed backbone and no model of timm; mixcore plugins and timm.list_models() "
            "list them. For a network of another origin, name its architecture as the teacher and its file as the "
            "weights"
        )
    if pretrained and _published_classes(name) is None:
        raise ConfigError(f"timm publishes no weights of teacher {name!r}; name a file of weights")
    try:
        network: nn.Module = timm.create_model(
            name, pretrained=pretrained, num_classes=task.num_classes, in_chans=task.in_channels, **options
        )
    except Exception as error:  # timm raises what its downloads, its constructors and torch raise
        instead = "; where weights cannot be fetched, name a local file as the teacher's weights" if pretrained else ""
        raise ConfigError(f"timm cannot build teacher {name!r}: {error}{instead}") from error
    return network


def _load(network: nn.Module, state: Mapping[str, Tensor], path: str) -> None:
    faults = mismatches(network, state)
    if faults:
        more = f" and {len(faults) - 3} more" if len(faults) > 3 else ""
        raise ConfigError(
            f"teacher weights: {path} does not fit a {type(network).__name__}: {'; '.join(faults[:3])}{more}; "
            "name the architecture that the file was saved from"
        )
    network.load_state_dict(state)
