"""Which mixers are measured, each with the plugins beside it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from mixcore.config.faults import Fault, raise_faults
from mixcore.config.schema import PluginTable, table_class
from mixcore.config.tables import plugin_table
from mixcore.discovery.catalogue import find, installed
from mixcore.discovery.load import load
from mixcore.discovery.manager import select_all
from mixcore.discovery.select import Selection
from mixcore.errors import ConfigError, MixcoreError, PluginError
from mixcore.hooks.roles import TABLE_ROLES, role_of

__all__ = ["BASELINE", "mixers_to_measure", "select_mixers"]

MIX = "mix"
"""The role that is measured."""
BASELINE = "none"
"""The mixer that all others are compared with."""


def mixers_to_measure(names: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """The baseline and the mixers of these names, or all that are installed; and why others cannot be measured."""
    claims = installed()
    entries = [find(name, claims) for name in names] or [entry for found in claims.values() for entry in found[:1]]
    mixers, unusable = [BASELINE], {}
    for entry in entries:
        try:
            role = role_of(load(entry))
        except PluginError as error:
            if names:
                raise
            unusable[entry.name] = str(error)
            continue
        if role == MIX:
            mixers.append(entry.name)
        elif names:
            raise ConfigError(f"{entry.label} has role {role}, and bench measures mixers; see mixcore plugins")
    return list(dict.fromkeys(mixers)), unusable


def select_mixers(
    mixers: Iterable[str], options: Mapping[str, Mapping[str, Any]]
) -> tuple[dict[str, Selection], dict[str, str]]:
    """The plugins of each mixer with its `options`, and why others cannot be had.

    Keys of the options that are roles are tables beside the mixer's: `{"labels": {"name": "area"}}`. Raises for the
    baseline, and for what options were given to.
    """
    selections, unusable = {}, {}
    for name in mixers:
        try:
            selections[name] = select_all(_tables(name, options.get(name, {})), f"[{MIX}] of {name}")
        except MixcoreError as error:
            if name == BASELINE or name in options:
                raise
            unusable[name] = str(error)
    return selections, unusable


def _tables(mixer: str, options: Mapping[str, Any]) -> dict[str, tuple[PluginTable, ...]]:
    beside = {key: value for key, value in options.items() if key in TABLE_ROLES}
    own = {key: value for key, value in options.items() if key not in beside}
    tables: dict[str, tuple[PluginTable, ...]] = {}
    faults: list[Fault] = []
    for role, table in {MIX: {"name": mixer, **own}, **beside}.items():
        found, more = plugin_table(table_class(role), table, (mixer, role))
        faults += more
        tables[role] = () if found is None else (found,)
    if faults:
        raise_faults(faults, "--set")
    return tables
