"""The check of options beyond the defaults: every value of those that have few, one at a time."""

from __future__ import annotations

import types
from collections.abc import Iterator
from typing import Any, Literal, Union, get_args, get_origin

import attrs

from mixcore.config.structure import option_fields
from mixcore.errors import ConfigError
from mixcore.hooks.roles import ROLES
from mixcore.testing.expect import expect
from mixcore.testing.harness import Harness, NotApplicableError, Subject
from mixcore.testing.named import checks_named

__all__ = ["every_option_value"]


def every_option_value(harness: Harness) -> None:
    """Every value of every Literal and boolean option, one at a time, is built and trains."""
    tried, faults = 0, []
    for name, value in _other_values(harness.plugin):
        subject = attrs.evolve(harness.given, options={**harness.given.options, name: value})
        tried += 1
        faults += [f"with {name} = {_toml(value)}, {fault}" for fault in _faults(subject, harness.role)]
    if not tried:
        raise NotApplicableError("it has no option of type Literal or bool")
    expect(not faults, "; ".join(faults))


def _other_values(plugin: Any) -> Iterator[tuple[str, Any]]:
    """Key and value of each value of a Literal or boolean option that it does not have now."""
    for key, field in option_fields(type(plugin)).items():
        for value in _values(field.type):
            if value != getattr(plugin, field.name):
                yield key, value


def _values(annotation: Any) -> tuple[Any, ...]:
    """What a type allows, where it names a few values; None, which no table can hold, is left out."""
    if annotation is bool:
        return (False, True)
    if get_origin(annotation) is Literal:
        return get_args(annotation)
    if get_origin(annotation) in (Union, types.UnionType):
        return tuple(value for member in get_args(annotation) for value in _values(member))
    return ()


def _faults(subject: Subject, role: str) -> list[str]:
    """The first check that fails and what it says; nothing where the plugin refuses the value beside these others."""
    for name, check in checks_named(ROLES[role].option_checks).items():
        try:
            check(Harness(subject))
        except NotApplicableError:
            continue
        except ConfigError:
            return []
        except Exception as error:  # whatever a stranger's plugin raises is a finding
            kind = "" if isinstance(error, AssertionError) else f"{type(error).__name__}: "
            return [f"{name}: {kind}{error}"]
    return []


def _toml(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else f'"{value}"' if isinstance(value, str) else str(value)
