"""`--set NAME.KEY=VALUE` of commands that take several plugins."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

__all__ = ["options_by_name"]


def options_by_name(overrides: Sequence[str], names: Collection[str], expected: str) -> dict[str, dict[str, Any]]:
    """The options that each of `names` is given. ConfigError for anything else, with what is `expected`."""
    from mixcore.config.faults import Fault, raise_faults
    from mixcore.config.layers import overrides_layer

    faults: list[Fault] = []
    tree = overrides_layer(overrides, faults).tree
    for name, value in tree.items():
        if name not in names or not isinstance(value, dict):
            faults.append(Fault((name,), f"expected {expected}"))
    if faults:
        raise_faults(faults, "--set")
    return tree
