"""What the options of plugins need and attrs has not: validators, and a mark for those that determine no number."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import attrs

__all__ = ["PLACE", "all_positive", "is_place", "range_of_shares"]

PLACE: Mapping[str, bool] = MappingProxyType({"mixcore.place": True})
"""Metadata of an option that says where things lie or how they come there, and changes no number of a run.

`root: str = attrs.field(default="data", metadata=PLACE)`. Such an option is no part of the run's digest: a run goes on
after its data set was moved, and the same experiment on two machines counts as one.
"""


def all_positive(instance: object, attribute: attrs.Attribute[Any], value: Sequence[float] | None) -> None:  # noqa: ARG001
    """Validator for attrs: None, or at least one number, all finite and above 0, such as a `std` per channel."""
    if value is not None and not (value and all(0 < number < math.inf for number in value)):
        raise ValueError(f"{attribute.name} must hold finite numbers above 0, found {list(value)}")


def range_of_shares(instance: object, attribute: attrs.Attribute[Any], value: Sequence[float] | None) -> None:  # noqa: ARG001
    """Validator for attrs: None, or two shares [low, high] with 0 <= low < high <= 1, such as those of box sides."""
    if value is not None and not (len(value) == 2 and 0 <= value[0] < value[1] <= 1):
        raise ValueError(f"{attribute.name!r} must be two shares [low, high] with 0 <= low < high <= 1, found {value}")


def is_place(field: attrs.Attribute[Any]) -> bool:
    """Whether an option is marked with PLACE."""
    return bool(field.metadata.get("mixcore.place", False))
