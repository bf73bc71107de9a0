"""What is trained, in groups of parameters: those that decay and those exempt from weight decay."""

from __future__ import annotations

import fnmatch
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import attrs
from torch import nn

from mixcore.errors import ConfigError

__all__ = ["DIFFERENCES", "Trained", "caller_groups", "differences_of", "parameter_groups_by"]

DIFFERENCES = ("lr", "min_lr", "momentum", "warmup_epochs", "weight_decay")
"""What a part may set apart from [optimizer] and [schedule]."""

logger = logging.getLogger("mixcore")


@attrs.frozen(kw_only=True, eq=False)
class Trained:
    """A module that is trained, and how its groups differ from [optimizer] and [schedule]."""

    name: str
    """`backbone`, or plugin and part as in `learntmask.mask`; leads the names of its parameters."""
    module: nn.Module
    differences: Mapping[str, float] = attrs.field(factory=dict)


def caller_groups(
    trained: Sequence[Trained], given: Mapping[str, Any], exempt: Sequence[str] = ()
) -> list[dict[str, Any]]:
    """Groups for an optimizer of somebody else's: `params`, `name`, what was `given` and what the module differs in.

    A key that neither names is in no group, so that the optimizer's own value holds. Weight decay is 0 only for the
    parameters that `exempt` asks to spare, in the words of [optimizer] exempt. ConfigError for an unknown difference.
    """
    return parameter_groups_by(trained, lambda one: {**given, **differences_of(one)}, exempt)


def parameter_groups_by(
    trained: Sequence[Trained], settings_of: Callable[[Trained], Mapping[str, Any]], exempt: Sequence[str]
) -> list[dict[str, Any]]:
    """At most two groups per module, with what `settings_of` says of it: parameters that decay, and those exempt."""
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


def differences_of(one: Trained) -> Mapping[str, float]:
    """What the module sets apart; ConfigError for what none may."""
    unknown = sorted(set(one.differences) - set(DIFFERENCES))
    if unknown:
        raise ConfigError(
            f"the optimizer settings of {one.name} name {', '.join(unknown)}; a part may set {', '.join(DIFFERENCES)}"
        )
    return one.differences


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
