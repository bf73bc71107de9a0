"""All checks by name: each takes a Harness and raises AssertionError, or NotApplicableError."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import ModuleType
from typing import TypeAlias

from mixcore.testing import (
    checks_class,
    checks_device,
    checks_form,
    checks_graph,
    checks_hooks,
    checks_isolation,
    checks_options,
    checks_processes,
    checks_repeat,
    checks_saliency,
    checks_step,
    checks_values,
)
from mixcore.testing.checks_owners import BACKBONE_CHECKS, DATA_CHECKS, LABEL_CHECKS, LOSS_CHECKS
from mixcore.testing.harness import Harness

__all__ = ["CHECKS", "Check", "checks_of"]

Check: TypeAlias = Callable[[Harness], None]


def _collect(*modules: ModuleType) -> dict[str, Check]:
    return {name: getattr(module, name) for module in modules for name in module.__all__}


CHECKS: Mapping[str, Check] = _collect(
    checks_class,
    checks_form,
    checks_values,
    checks_isolation,
    checks_device,
    checks_hooks,
    checks_graph,
    checks_repeat,
    checks_options,
    checks_processes,
)
"""The contract of mixers: name -> check; the first line of a check's docstring says what it holds a mixer to."""

_TRAINED = ("options_round_trip", "two_training_steps", "state_round_trip", "two_processes")


def checks_of(role: str) -> Mapping[str, Check]:
    """Name -> check for plugins of a role: mix, saliency, labels, loss, extra, backbone or data."""
    if role == "mix":
        return CHECKS
    shared = _collect(checks_class)
    if role == "data":
        return {**shared, "options_round_trip": CHECKS["options_round_trip"], **DATA_CHECKS}
    steps, trained = _collect(checks_step), {name: CHECKS[name] for name in _TRAINED}
    if role == "backbone":
        some = {name: steps[name] for name in ("any_batch_size", "same_seed_same_loss")}
        return {**shared, **BACKBONE_CHECKS, **some, **trained}
    own = {"labels": LABEL_CHECKS, "loss": LOSS_CHECKS}.get(role, {})
    run = _collect(checks_hooks, checks_device, checks_options)
    if role == "saliency":
        some = {name: CHECKS[name] for name in ("options_round_trip", "two_training_steps", "state_round_trip")}
        return {**shared, **_collect(checks_saliency), **_collect(checks_device, checks_options), **some}
    return {**shared, **own, **steps, **run, **trained}
