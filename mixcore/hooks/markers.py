"""The markers of the project `mixcore`: `hookspec` for the core, `hookimpl` for plugins."""

from __future__ import annotations

import pluggy

__all__ = ["PROJECT", "hookimpl", "hookspec"]

PROJECT = "mixcore"
hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)
"""Marks a method as the implementation of the hook of its name. `@hookimpl(wrapper=True)` extends what other plugins
implement: a generator that yields once and returns the result. `@hookimpl(optionalhook=True)` is not refused by a
mixcore that does not have the hook yet.
"""
