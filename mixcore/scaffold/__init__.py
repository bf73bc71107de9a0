"""The template of a plugin distribution, and what renders it for `mixcore new`."""

from __future__ import annotations

__all__ = ["ROLES"]

ROLES = ("mix", "labels", "loss")
"""Roles that the template has a plugin for; its folder of that name holds what differs, `shared` what does not."""
