"""Plugins that stand outside a run: one, selected and registered by itself."""

from __future__ import annotations

from mixcore.config.faults import Fault, Path
from mixcore.config.schema import PluginTable
from mixcore.discovery.catalogue import installed
from mixcore.discovery.manager import new_manager, register
from mixcore.discovery.select import select_one
from mixcore.errors import BrokenPluginError
from mixcore.hooks.calls import PluginCalls
from mixcore.hooks.roles import ROLES

__all__ = ["lone_plugin"]


def lone_plugin(role: str, table: PluginTable, path: Path) -> tuple[PluginCalls | None, list[Fault]]:
    """The plugin of a role that `table` names, ready to be called; or its faults, under `path`."""
    selected, faults = select_one(role, table, path, installed())
    if selected is None:
        return None, faults
    manager, duty = new_manager(), ROLES[role].duty
    try:
        register(manager, selected.plugin, f"{role}.{table.name}", selected.label)
        calls = PluginCalls(manager, selected.plugin, table.name, selected.label)
        if duty is not None and not calls.has(duty):
            raise BrokenPluginError(
                f"{selected.label} has role {role} but does not implement {duty}; see docs/hooks.md"
            )
    except BrokenPluginError as error:
        return None, [Fault(path, str(error), error)]
    return calls, []
