"""From tables to the plugins of a run, registered and ready to be called.

A manager cannot cross into another process: each process builds its own from the configuration.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import attrs
import pluggy

from mixcore.config.faults import Fault, raise_faults
from mixcore.config.schema import MixTable, RunConfig, table_class
from mixcore.config.tables import plugin_table
from mixcore.discovery.capabilities import check_mixers
from mixcore.discovery.chooser import Chooser, probabilities_of
from mixcore.discovery.nested import held_saliencies
from mixcore.discovery.plugins import Plugins
from mixcore.discovery.select import Selection, select
from mixcore.errors import BrokenPluginError
from mixcore.hooks.calls import PluginCalls, check_implementations
from mixcore.hooks.markers import PROJECT
from mixcore.hooks.roles import ROLES, role_of
from mixcore.hooks.specs import HookSpecs
from mixcore.options import Saliency

__all__ = [
    "Alone",
    "build_method_plugins",
    "build_plugins",
    "new_manager",
    "register",
    "register_alone",
    "register_selection",
    "select_all",
]


@attrs.frozen(eq=False)
class Alone:
    """A plugin that is called outside a run."""

    calls: PluginCalls

    @property
    def everyone(self) -> tuple[PluginCalls, ...]:
        """Itself, as what is asked of all plugins of a run is asked of it."""
        return (self.calls,)


def build_plugins(config: RunConfig) -> Plugins:
    """The plugins that the configuration names, selected anew.

    Raises ConfigError with every fault of every table at once, or the one PluginError where that is all.
    """
    return register_selection(select_all(config.plugin_tables(), "the configuration"))


def select_all(tables: Mapping[str, Sequence[Any]], source: str) -> Selection:
    """What :func:`mixcore.discovery.select.select` finds; raises every fault at once, `source` says of what."""
    selection, faults = select(tables)
    if selection is None:
        raise_faults(faults, source)
    return selection


def build_method_plugins(**given: Any) -> Plugins:
    """The plugins of a training step without data and backbone, by role: `mix="cutmix", labels="area"`.

    Each is a name, a table as in TOML ({"name": "cutmix", "alpha": 0.2}), or an instance of a plugin class; roles of
    several plugins take lists of these, and None is as if nothing was given. Raises as :func:`build_plugins` does.
    """
    faults: list[Fault] = []
    tables: dict[str, list[Any]] = {}
    for role, value in given.items():
        listed = isinstance(value, Sequence) and not isinstance(value, str) and ROLES[role].several
        read = [_table(one, role, faults) for one in (value if listed else [value])]
        tables[role] = [table for table in read if table is not None]
    selection, more = select(tables)
    if selection is None or faults:
        raise_faults([*faults, *more], "these plugins")
    return register_selection(selection)


def _table(value: Any, role: str, faults: list[Fault]) -> Any:
    """A name or a mapping as the table of its role, an instance as it is; None for none, and where it has faults."""
    if isinstance(value, str):
        return table_class(role)(name=value)
    if not isinstance(value, Mapping):
        return value
    read, own = plugin_table(table_class(role), value, (role,))
    faults.extend(own)
    return read


def register(manager: pluggy.PluginManager, plugin: Any, name: str, label: str) -> None:
    """Register one plugin, after the checks that pluggy leaves out; BrokenPluginError where a hook does not fit."""
    check_implementations(plugin, label)
    try:
        manager.register(plugin, name)
        manager.check_pending()
    except pluggy.PluginValidationError as error:
        raise BrokenPluginError(f"{label}: {error}; docs/hooks.md lists what each hook may ask for") from error


def new_manager() -> pluggy.PluginManager:
    """An empty manager that knows the hooks."""
    manager = pluggy.PluginManager(PROJECT)
    manager.add_hookspecs(HookSpecs)
    return manager


def register_alone(plugin: Any, name: str, label: str) -> Alone:
    """A plugin in a manager of its own. BrokenPluginError where it does not do what its role is for."""
    manager = new_manager()
    register(manager, plugin, name, label)
    calls = PluginCalls(manager, plugin, name, label)
    _check_duty(calls, role_of(type(plugin)))
    return Alone(calls)


def register_selection(selection: Selection) -> Plugins:
    """The plugins of a selection, registered: once, for one run.

    Raises ConfigError or PluginError for hooks that do not fit, and for plugins that do not fit together.
    """
    manager = new_manager()
    chooser = Chooser()
    manager.register(chooser, "mixcore")
    faults = []
    for role, group in selection.of.items():
        for index, item in enumerate(group):
            try:
                register(manager, item.plugin, f"{role}[{index}].{item.table.name}", item.label)
            except BrokenPluginError as error:
                faults.append(Fault((), str(error), error))
    if faults:
        raise_faults(faults, "the selected plugins")
    tables = [item.table for item in selection.of["mix"] if isinstance(item.table, MixTable)]
    calls = {
        role: tuple(PluginCalls(manager, item.plugin, item.table.name, item.label) for item in group)
        for role, group in selection.of.items()
    }
    plugins = Plugins(
        manager=manager,
        of=calls,
        held=_held(selection, calls["saliency"]),
        selection=selection,
        chooser=PluginCalls(manager, chooser, "mixcore", "mixcore"),
        probabilities=probabilities_of([table.probability for table in tables]),
        group_sizes=tuple(table.group_size for table in tables),
    )
    _check_owners(plugins)
    check_mixers(plugins)
    return plugins


def _check_owners(plugins: Plugins) -> None:
    """Refuse the owner of a role that does not implement the hook of that role."""
    for role, group in plugins.of.items():
        for calls in group:
            _check_duty(calls, role)


def _check_duty(calls: PluginCalls, role: str) -> None:
    duty = ROLES[role].duty
    if duty is not None and not calls.has(duty):
        raise BrokenPluginError(f"{calls.label} has role {role} but does not implement {duty}; see docs/hooks.md")


def _held(selection: Selection, saliencies: Iterable[PluginCalls]) -> dict[Saliency, PluginCalls]:
    """For what each option holds, the calls into its plugin."""
    calls_of = {id(calls.plugin): calls for calls in saliencies}
    return {
        saliency: calls_of[id(item.held[key].plugin)]
        for item in selection.everyone()
        for key, saliency in held_saliencies(item.plugin)
    }
