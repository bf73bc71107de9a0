"""Optimizers through timm's factory, from explicit parameter groups."""

from __future__ import annotations

import difflib
import fnmatch
import inspect
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import attrs
import timm.optim
import torch
from torch import nn

from mixcore.config.schema import OptimizerConfig, ScheduleConfig
from mixcore.errors import ConfigError

__all__ = ["DIFFERENCES", "Trained", "build_optimizer", "caller_groups", "parameter_groups"]

DIFFERENCES = ("lr", "min_lr", "momentum", "warmup_epochs", "weight_decay")
"""What a part may set apart from [optimizer] and [schedule]."""

logger = logging.getLogger("mixcore")


@attrs.frozen(kw_only=True, eq=False)
class Trained:
    """A module that is trained, and how its groups differ from [optimizer] and [schedule]."""

    name: str
    """`backbone`, or plugin and part as in `automix.block`; leads the names of its parameters."""
    module: nn.Module
    differences: Mapping[str, float] = attrs.field(factory=dict)


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

    return _groups(trained, settings_of, optimizer.exempt)


def caller_groups(
    trained: Sequence[Trained], given: Mapping[str, Any], exempt: Sequence[str] = ()
) -> list[dict[str, Any]]:
    """Groups for an optimizer of somebody else's: `params`, `name`, what was `given` and what the module differs in.

    A key that neither names is in no group, so that the optimizer's own value holds. Weight decay is 0 only for the
    parameters that `exempt` asks to spare, in the words of [optimizer] exempt. ConfigError for an unknown difference.
    """
    return _groups(trained, lambda one: {**given, **_differences(one)}, exempt)


def _groups(
    trained: Sequence[Trained], settings_of: Callable[[Trained], Mapping[str, Any]], exempt: Sequence[str]
) -> list[dict[str, Any]]:
    groups: list[dict[str, Any]] = []
    for one in trained:
        settings = settings_of(one)
        spared, decaying = _split(one, exempt)
        if decaying:
            groups.append({"params": decaying, "name": one.name, **settings})
        if spared:
            groups.append({"params": spared, "name": f"{one.name}/exempt", **settings, "weight_decay": 0.0})
    _warn_of_idle_patterns(trained, exempt)
    return groups


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


def _differences(one: Trained) -> Mapping[str, float]:
    unknown = sorted(set(one.differences) - set(DIFFERENCES))
    if unknown:
        raise ConfigError(
            f"the optimizer settings of {one.name} name {', '.join(unknown)}; a part may set {', '.join(DIFFERENCES)}"
        )
    return one.differences


def _settings(one: Trained, optimizer: OptimizerConfig, schedule: ScheduleConfig) -> dict[str, Any]:
    differences = _differences(one)
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


def _split(one: Trained, exempt: Sequence[str]) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """The module's trainable parameters: (exempt from weight decay, decaying)."""
    declared = _declared(one.module) if "no_weight_decay" in exempt else frozenset()
    split: tuple[list[nn.Parameter], list[nn.Parameter]] = ([], [])
    for name, parameter in one.module.named_parameters():
        if parameter.requires_grad:
            spared = (
                ("norm_bias" in exempt and (parameter.ndim <= 1 or name.endswith("bias")))
                or name in declared
                or any(_matches(one, name, pattern) for pattern in exempt)
            )
            split[0 if spared else 1].append(parameter)
    return split


def _declared(module: nn.Module) -> frozenset[str]:
    names = getattr(module, "no_weight_decay", None)
    return frozenset(names()) if callable(names) else frozenset()


def _matches(one: Trained, name: str, pattern: str) -> bool:
    return fnmatch.fnmatchcase(name, pattern) or fnmatch.fnmatchcase(f"{one.name}.{name}", pattern)


def _warn_of_idle_patterns(trained: Sequence[Trained], exempt: Sequence[str]) -> None:
    for pattern in exempt:
        if pattern not in ("norm_bias", "no_weight_decay") and not any(
            _matches(one, name, pattern) for one in trained for name, _ in one.module.named_parameters()
        ):
            logger.warning("optimizer.exempt: no parameter is named like %r", pattern)


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
