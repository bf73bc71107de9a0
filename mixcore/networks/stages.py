"""Stages: the feature maps of a network, by module name or by number."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence

from torch import nn

from mixcore.errors import ConfigError
from mixcore.networks.compiled import COMPILE_LATER, compiled_around
from mixcore.networks.interface import has_interface, without_interface
from mixcore.types import Stage

__all__ = ["FEATURES", "resolve_stage", "stage_names"]

FEATURES = "features"
"""The last stage, before the head: what forward_features puts out."""


def stage_names(model: nn.Module) -> tuple[str, ...]:
    """Module names of the stages 1, 2, ... of `model`, from timm's feature_info without its stem.

    A stem is a first entry of another kind than the second (ResNet: act1, layer1, layer2, ...). Empty where the
    network has no feature_info.
    """
    names = _module_names(getattr(model, "feature_info", None) or ())
    if len(names) > 1 and _kind(names[0]) != _kind(names[1]):
        names = names[1:]
    return tuple(names)


def _module_names(feature_info: Sequence[object]) -> list[str]:
    entries = feature_info.get_dicts() if hasattr(feature_info, "get_dicts") else feature_info
    return [entry["module"] if isinstance(entry, dict) else str(entry) for entry in entries]


def _kind(name: str) -> str:
    return re.sub(r"\d+", "", name)


def resolve_stage(model: nn.Module, stage: Stage) -> str | None:
    """Name of the module whose output is `stage`; "features" for the last one; None for the input.

    A number counts as :func:`stage_names` does, from 1; 0 is the input and negative numbers count from the end.
    ConfigError for a stage that the network lacks, naming those it has, and for one inside of what came compiled.
    """
    if stage == 0:
        return None
    names = stage_names(model)
    name = _named(model, stage, names)
    around = compiled_around(model, stage if name is None and isinstance(stage, str) else name or "")
    if around is not None:
        raise ConfigError(f"stage {stage!r} cannot be read or mixed, because {around}; {COMPILE_LATER}")
    if name is None:
        raise ConfigError(_refusal(model, stage, names))
    return name


def _named(model: nn.Module, stage: Stage, names: tuple[str, ...]) -> str | None:
    if isinstance(stage, int):
        return names[stage - 1 if stage > 0 else stage] if -len(names) <= stage <= len(names) else None
    if stage == FEATURES:
        return stage if has_interface(model) else None
    return stage if stage in names or (stage and stage in dict(model.named_modules())) else None


def _refusal(model: nn.Module, stage: Stage, names: tuple[str, ...]) -> str:
    counted = ", ".join(f"{number} ({name})" for number, name in enumerate(names, 1))
    split = has_interface(model)
    known = ", ".join(["0 (the input)", *([counted] if names else []), *([FEATURES] if split else [])])
    way_out = "" if split or (isinstance(stage, str) and stage != FEATURES) else f"; {without_interface(model)}"
    near = difflib.get_close_matches(str(stage), [*names, FEATURES], 1)
    nearest = f"; did you mean {near[0]!r}?" if near else ""
    return (
        f"{type(model).__name__} has no stage {stage!r}; its stages: {known}, or any module that puts out a feature "
        f"map, by its name{nearest}{way_out}"
    )
