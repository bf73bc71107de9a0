"""What would work instead: for the messages of a refusal, so nothing here runs in a configuration that fits."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any, Literal, get_args, get_origin

import attrs

from mixcore.config.structure import option_fields
from mixcore.discovery.declared import NETWORK_NEEDS, Declared
from mixcore.discovery.survey import plugins_of_role

__all__ = ["installed_plugins", "names_of_role", "options_without"]


def installed_plugins(role: str) -> Iterator[tuple[str, Declared]]:
    """Name and declarations, with default options, of each installed plugin of a role; broken ones are passed over.

    None of them is imported in this process: what a plugin does that nobody selected is not this run's concern.
    """
    for name, found in plugins_of_role(role).items():
        if found.declared is not None:
            yield name, found.declared


def names_of_role(role: str) -> list[str]:
    """The installed plugins that a table of this role may name, and those whose role is not known in time."""
    return list(plugins_of_role(role))


def options_without(plugin: Any, missing: Collection[str], provided: Collection[str]) -> list[str]:
    """Settings such as `source = "energy"` under which the plugin needs none of `missing`, only what is `provided`."""
    if not attrs.has(type(plugin)):
        return []
    found = []
    for key, field in option_fields(type(plugin)).items():
        choices = get_args(field.type) if get_origin(field.type) is Literal else ()
        for choice in choices:
            if choice != getattr(plugin, field.name) and _suffices(plugin, key, choice, missing, provided):
                value = f'"{choice}"' if isinstance(choice, str) else str(choice)
                found.append(f"{key} = {value}")
    return found


def _suffices(plugin: Any, key: str, choice: object, missing: Collection[str], provided: Collection[str]) -> bool:
    try:
        needs = set(getattr(attrs.evolve(plugin, **{key: choice}), "needs", ()))
    except Exception:  # its validators refuse the choice beside its other options
        return False
    return not needs & set(missing) and needs & NETWORK_NEEDS <= set(provided)
