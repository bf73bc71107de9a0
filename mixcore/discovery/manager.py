"""From tables to the plugins of a run, registered and ready to be called.

A manager cannot cross into another process: each process builds its own from the configuration.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pluggy

from mixcore.config.faults import Fault, raise_faults
from mixcore.config.schema import MixTable, PluginTable, RunConfig
from mixcore.config.tables import plugin_table
from mixcore.discovery.capabilities import check_mixers
from mixcore.discovery.chooser import Chooser, probabilities_of
from mixcore.discovery.nested import held_saliencies
from mixcore.discovery.plugins import Plugins
from mixcore.discovery.select import PluginTables, Selected, Selection, select
from mixcore.errors import BrokenPluginError
from mixcore.hooks.calls import PluginCalls, check_implementations
from mixcore.hooks.markers import PROJECT
from mixcore.hooks.specs import HookSpecs
from mixcore.options import Saliency

__all__ = ["build_method_plugins", "build_plugins", "new_manager", "register"]


def build_plugins(config: RunConfig) -> Plugins:
    """The plugins that the configuration names.

    Raises ConfigError with every fault of every table at once, or the one PluginError where that is all.
    """
    wanted = PluginTables(
        data=config.data,
        backbone=config.backbone,
        mix=config.mix,
        labels=config.labels,
        loss=config.loss,
        extra=config.extra,
    )
    selection, faults = select(wanted)
    if selection is None:
        raise_faults(faults, "the configuration")
    return _register_all(selection)


def build_method_plugins(mix: Any = "none", labels: Any = None, loss: Any = None, extra: Sequence[Any] = ()) -> Plugins:
    """The plugins of a training step without data and backbone.

    Each is a name, a table as in TOML ({"name": "cutmix", "alpha": 0.2}), or an instance of a plugin class; `mix` and
    `extra` may be lists of these. Raises as :func:`build_plugins` does.
    """
    faults: list[Fault] = []

    def table(value: Any, cls: type[PluginTable], role: str) -> Any:
        if isinstance(value, str):
            return cls(name=value)
        if not isinstance(value, Mapping):
            return value
        read, own = plugin_table(cls, value, (role,))
        faults.extend(own)
        return read

    mixers = list(mix) if isinstance(mix, Sequence) and not isinstance(mix, str) else [mix]
    extras = list(extra) if isinstance(extra, Sequence) and not isinstance(extra, str) else [extra]
    selection, more = select(
        PluginTables(
            mix=[found for value in mixers if (found := table(value, MixTable, "mix")) is not None],
            labels=table(labels, PluginTable, "labels"),
            loss=table(loss, PluginTable, "loss"),
            extra=[found for value in extras if (found := table(value, PluginTable, "extra")) is not None],
        )
    )
    if selection is None or faults:
        raise_faults([*faults, *more], "these plugins")
    return _register_all(selection)


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


def _register_all(selection: Selection) -> Plugins:
    manager = new_manager()
    chooser = Chooser()
    manager.register(chooser, "mixcore")
    groups: dict[str, tuple[Selected, ...]] = {
        "data": _present(selection.data),
        "backbone": _present(selection.backbone),
        "mix": selection.mix,
        "labels": (selection.labels,),
        "loss": (selection.loss,),
        "extra": selection.extra,
        "saliency": selection.saliency,
    }
    faults = []
    for role, group in groups.items():
        for index, item in enumerate(group):
            try:
                register(manager, item.plugin, f"{role}[{index}].{item.table.name}", item.label)
            except BrokenPluginError as error:
                faults.append(Fault((), str(error), error))
    if faults:
        raise_faults(faults, "the selected plugins")
    calls = {
        role: tuple(PluginCalls(manager, item.plugin, item.table.name, item.label) for item in group)
        for role, group in groups.items()
    }
    tables = [item.table for item in selection.mix if isinstance(item.table, MixTable)]
    plugins = Plugins(
        manager=manager,
        data=next(iter(calls["data"]), None),
        backbone=next(iter(calls["backbone"]), None),
        mixers=calls["mix"],
        labels=calls["labels"][0],
        loss=calls["loss"][0],
        extras=calls["extra"],
        saliencies=calls["saliency"],
        held=_held(groups, calls["saliency"]),
        chooser=PluginCalls(manager, chooser, "mixcore", "mixcore"),
        probabilities=probabilities_of([table.probability for table in tables]),
        group_sizes=tuple(table.group_size for table in tables),
        predictor=selection.predictor,
        selected=tuple(item for group in groups.values() for item in group),
    )
    check_owners(plugins.everyone, [item.role for item in plugins.selected])
    check_mixers(plugins)
    return plugins


_DUTIES = {
    "data": "build_data",
    "backbone": "build_backbone",
    "mix": "generate_mix",
    "saliency": "map_saliency",
    "labels": "mix_labels",
    "loss": "compute_loss",
}


def check_owners(everyone: Iterable[PluginCalls], roles: Iterable[str]) -> None:
    """Refuse the owner of a role that does not implement the hook of that role."""
    for calls, role in zip(everyone, roles, strict=True):
        duty = _DUTIES.get(role)
        if duty is not None and not calls.has(duty):
            raise BrokenPluginError(f"{calls.label} has role {role} but does not implement {duty}; see docs/hooks.md")


def _held(groups: Mapping[str, Iterable[Selected]], saliencies: Iterable[PluginCalls]) -> dict[Saliency, PluginCalls]:
    """For what each option holds, the calls into its plugin."""
    calls_of = {id(calls.plugin): calls for calls in saliencies}
    return {
        saliency: calls_of[id(item.held[key].plugin)]
        for group in groups.values()
        for item in group
        for key, saliency in held_saliencies(item.plugin)
    }


def _present(item: Selected | None) -> tuple[Selected, ...]:
    return () if item is None else (item,)
