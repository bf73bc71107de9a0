"""Optimizers through timm's factory, from explicit parameter groups."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Sequence
from typing import Any

import timm.optim
import torch

from mixcore.config.schema import OptimizerConfig, ScheduleConfig
from mixcore.errors import ConfigError
from mixcore.step.trained import Trained, differences_of, parameter_groups_by

__all__ = ["build_optimizer", "parameter_groups"]


def parameter_groups(
    trained: Sequence[Trained], optimizer: OptimizerConfig, schedule: ScheduleConfig
) -> list[dict[str, Any]]:
    """At most two groups per module: the parameters that decay, and those exempt from weight decay.

    A group has `params`, `name`, `lr`, `weight_decay`, `momentum` where the optimizer has one, and what the schedule
    reads: `base_lr`, `min_lr`, `warmup_epochs`. Frozen parameters are in no group. A module with a learning rate of
    its own has no warm-up unless it asks for one. ConfigError for an unknown optimizer or an unknown difference.
    """
    info = _optimizer_info(optimizer.name)

    def settings_of(one: Trained) -> dict[str, Any]:
        settings = _settings(one, optimizer, schedule)
        if not info.has_momentum:
            del settings["momentum"]
        return settings

    return parameter_groups_by(trained, settings_of, optimizer.exempt)


def build_optimizer(
    trained: Sequence[Trained], optimizer: OptimizerConfig, schedule: ScheduleConfig
) -> torch.optim.Optimizer:
    """The optimizer of timm that `optimizer.name` names, over the groups of :func:`parameter_groups`.

    Nesterov momentum is on only when `optimizer.nesterov` says so: timm's own "sgd" has it on. ConfigError for an
    unknown name, and for settings that this optimizer refuses.
    """
    arguments = _arguments(optimizer)
    groups = parameter_groups(trained, optimizer, schedule)
    try:
        return timm.optim.create_optimizer_v2(
            groups, opt=optimizer.name, lr=optimizer.lr, weight_decay=optimizer.weight_decay, **arguments
        )
    except (TypeError, ValueError, ImportError, RuntimeError, AssertionError) as error:
        raise ConfigError(f"optimizer {optimizer.name!r} refuses its settings: {error}; see [optimizer]") from error


def _settings(one: Trained, optimizer: OptimizerConfig, schedule: ScheduleConfig) -> dict[str, Any]:
    differences = differences_of(one)
    settings: dict[str, Any] = {
        "lr": optimizer.lr,
        "momentum": optimizer.momentum,
        "weight_decay": optimizer.weight_decay,
        "min_lr": schedule.min_lr,
        "warmup_epochs": 0 if "lr" in differences else schedule.warmup_epochs,
        **differences,
    }
    settings["base_lr"] = settings["lr"]
    return settings


def _optimizer_info(name: str) -> Any:
    """What timm knows of the optimizer; the prefix `lookahead_` is timm's too."""
    plain = name.lower().removeprefix("lookahead_")
    known = [str(one) for one in timm.optim.list_optimizers()]
    if plain not in known:
        near = difflib.get_close_matches(plain, known, 3)
        hint = f"did you mean {', '.join(near)}?" if near else "timm.optim.list_optimizers() lists what there is"
        raise ConfigError(f"optimizer.name: timm has no optimizer {name!r}; {hint}")
    return timm.optim.get_optimizer_info(plain)


def _arguments(optimizer: OptimizerConfig) -> dict[str, Any]:
    """What the factory gets beside groups, lr and weight decay; refuses what it would drop in silence."""
    info = _optimizer_info(optimizer.name)
    arguments: dict[str, Any] = {"momentum": optimizer.momentum}
    for key, value, known in (("betas", optimizer.betas, info.has_betas), ("eps", optimizer.eps, info.has_eps)):
        if value is not None:
            if not known:
                raise ConfigError(f"optimizer.{key}: {optimizer.name!r} has no {key}; remove the line")
            arguments[key] = value
    plain = optimizer.name.lower().removeprefix("lookahead_")
    known_class = timm.optim.get_optimizer_class(plain, bind_defaults=False)
    takes_nesterov = (
        info.has_momentum and not info.has_betas and "nesterov" in inspect.signature(known_class).parameters
    )
    if takes_nesterov and not plain.startswith("n"):  # nesterov, nlars: the name says it
        arguments["nesterov"] = optimizer.nesterov
    elif optimizer.nesterov and not takes_nesterov:
        raise ConfigError(f"optimizer.nesterov: {optimizer.name!r} has no such setting; remove the line")
    return {**arguments, **optimizer.options}
