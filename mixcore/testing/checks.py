"""The contract of each role: name -> check, which takes a Harness and raises AssertionError or NotApplicableError."""

from __future__ import annotations

from collections.abc import Mapping

from mixcore.hooks.roles import ROLES
from mixcore.testing.named import Check, checks_named

__all__ = ["CHECKS", "Check", "checks_of"]


def checks_of(role: str) -> Mapping[str, Check]:
    """Name -> check for plugins of a role, as the table of roles has them."""
    return checks_named(ROLES[role].checks)


CHECKS = checks_of("mix")
"""The contract of mixers: name -> check; the first line of a check's docstring says what it holds a mixer to."""
