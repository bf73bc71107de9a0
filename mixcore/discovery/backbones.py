"""The bare network of an installed backbone plugin, for who needs a second one beside the run's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from mixcore.config.faults import raise_faults
from mixcore.config.schema import PluginTable
from mixcore.discovery.catalogue import installed
from mixcore.discovery.manager import new_manager, register
from mixcore.discovery.select import select_one
from mixcore.hooks.calls import PluginCalls
from mixcore.types import Task

__all__ = ["build_backbone_plugin"]


def build_backbone_plugin(name: str, task: Task, options: Mapping[str, Any]) -> nn.Module | None:
    """The network that the backbone plugin `name` builds for `task` with these options; None where none has the name.

    ConfigError for options that it does not take, and for a plugin of another role.
    """
    claims = installed()
    if name not in claims:
        return None
    table = PluginTable(name=name, options=dict(options))
    selected, faults = select_one("backbone", table, ("teacher",), claims)
    if selected is None:
        raise_faults(faults, f"teacher {name!r}")
    manager = new_manager()
    register(manager, selected.plugin, name, selected.label)
    return PluginCalls(manager, selected.plugin, name, selected.label).build_backbone(task=task)
