"""Plugins that stand outside a run: one, selected and registered by itself."""

from __future__ import annotations

from mixcore.config.faults import Fault, Path
from mixcore.config.schema import PluginTable
from mixcore.discovery.catalogue import installed
from mixcore.discovery.manager import register_alone
from mixcore.discovery.select import select_one
from mixcore.errors import BrokenPluginError
from mixcore.hooks.calls import PluginCalls

__all__ = ["lone_plugin"]


def lone_plugin(role: str, table: PluginTable, path: Path) -> tuple[PluginCalls | None, list[Fault]]:
    """The plugin of a role that `table` names, ready to be called; or its faults, under `path`."""
    selected, faults = select_one(role, table, path, installed())
    if selected is None:
        return None, faults
    try:
        return register_alone(selected.plugin, table.name, selected.label).calls, []
    except BrokenPluginError as error:
        return None, [Fault(path, str(error), error)]
