"""All checks of the contract by name: each takes a Harness and raises AssertionError, or NotApplicableError."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import ModuleType
from typing import TypeAlias

from mixcore.testing import checks_form, checks_isolation, checks_processes, checks_repeat, checks_values
from mixcore.testing.harness import Harness

__all__ = ["CHECKS", "Check"]

Check: TypeAlias = Callable[[Harness], None]


def _collect(*modules: ModuleType) -> dict[str, Check]:
    return {name: getattr(module, name) for module in modules for name in module.__all__}


CHECKS: Mapping[str, Check] = _collect(checks_form, checks_values, checks_isolation, checks_repeat, checks_processes)
"""Name -> check; the first line of a check's docstring says what it holds a mixer to."""
