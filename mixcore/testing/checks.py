"""All checks by name: each takes a Harness and raises AssertionError, or NotApplicableError."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import ModuleType
from typing import TypeAlias

from mixcore.testing import (
    checks_form,
    checks_isolation,
    checks_processes,
    checks_repeat,
    checks_step,
    checks_values,
)
from mixcore.testing.checks_owners import BACKBONE_CHECKS, DATA_CHECKS, LABEL_CHECKS
from mixcore.testing.harness import Harness

__all__ = ["CHECKS", "Check", "checks_of"]

Check: TypeAlias = Callable[[Harness], None]


def _collect(*modules: ModuleType) -> dict[str, Check]:
    return {name: getattr(module, name) for module in modules for name in module.__all__}


CHECKS: Mapping[str, Check] = _collect(checks_form, checks_values, checks_isolation, checks_repeat, checks_processes)
"""The contract of mixers: name -> check; the first line of a check's docstring says what it holds a mixer to."""

_TRAINED = ("options_round_trip", "two_training_steps", "state_round_trip", "two_processes")


def checks_of(role: str) -> Mapping[str, Check]:
    """Name -> check for plugins of a role: mix, labels, loss, extra, backbone or data."""
    if role == "mix":
        return CHECKS
    if role == "data":
        return {"options_round_trip": CHECKS["options_round_trip"], **DATA_CHECKS}
    own = {"labels": LABEL_CHECKS, "backbone": BACKBONE_CHECKS}.get(role, {})
    steps = _collect(checks_step)
    if role == "backbone":
        steps = {name: steps[name] for name in ("any_batch_size", "same_seed_same_loss")}
    else:
        steps["nothing_is_read_on_the_host"] = CHECKS["nothing_is_read_on_the_host"]
    return {**own, **steps, **{name: CHECKS[name] for name in _TRAINED}}
