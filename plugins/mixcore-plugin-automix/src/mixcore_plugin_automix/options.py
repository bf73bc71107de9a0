"""Validators that several options share."""

from __future__ import annotations

import math
from typing import Any

from attrs.validators import ge, gt, le, lt

__all__ = ["non_negative", "positive", "share"]


def positive() -> Any:
    """Above 0."""
    return [gt(0), lt(math.inf)]


def non_negative() -> Any:
    """0 or above."""
    return [ge(0), lt(math.inf)]


def share() -> Any:
    """From 0 to 1."""
    return [ge(0), le(1)]
