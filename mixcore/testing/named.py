"""The checks that the table of roles names, found by their names."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from importlib import import_module
from typing import TypeAlias

from mixcore.testing.harness import Harness

__all__ = ["Check", "checks_named"]

Check: TypeAlias = Callable[[Harness], None]


def checks_named(names: Iterable[str]) -> dict[str, Check]:
    """Name -> check: `values` stands for all checks of `mixcore.testing.checks_values`, `step.any_mix` for that one."""
    found: dict[str, Check] = {}
    for name in names:
        room, _, one = name.partition(".")
        module = import_module(f"mixcore.testing.checks_{room}")
        found |= {check: getattr(module, check) for check in ([one] if one else module.__all__)}
    return found
