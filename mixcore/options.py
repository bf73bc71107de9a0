"""Validators for options of plugins that attrs has none for."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import attrs

__all__ = ["all_positive"]


def all_positive(instance: object, attribute: attrs.Attribute[Any], value: Sequence[float] | None) -> None:  # noqa: ARG001
    """Validator for attrs: None, or at least one number, all finite and above 0, such as a `std` per channel."""
    if value is not None and not (value and all(0 < number < math.inf for number in value)):
        raise ValueError(f"{attribute.name} must hold finite numbers above 0, found {list(value)}")
