"""From names, tables and instances to plugins, and which of them a foreign loop can have as a mixed batch alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import attrs

from mixcore.config.faults import raise_faults
from mixcore.config.schema import MixTable
from mixcore.config.tables import CORE_KEYS, plugin_table, probability_faults
from mixcore.discovery.chooser import probabilities_of
from mixcore.discovery.manager import build_method_plugins
from mixcore.discovery.plugins import Plugins
from mixcore.errors import ConfigError
from mixcore.hooks.calls import PluginCalls
from mixcore.hooks.roles import ROLES
from mixcore.types import Mix

__all__ = ["mixing_plugins", "other_door", "refuse_more_than_a_batch", "step_plugins"]


def step_plugins(**given: Any) -> Plugins:
    """The plugins of a whole step, by role. Raises ConfigError or PluginError for what cannot be combined."""
    for one in (one for value in given.values() for one in _several(value)):
        if isinstance(one, type):
            raise ConfigError(f"{one.__name__} is a class; give an instance of it, its options set: {one.__name__}()")
    plugins = build_method_plugins(**given)
    faults = probability_faults([item.table for item in plugins.selected if isinstance(item.table, MixTable)])
    if faults:
        raise_faults(faults, "these mixers")
    return plugins


def mixing_plugins(mix: Any, options: Mapping[str, Any]) -> Plugins:
    """The mixers of `create_mixer`: one name with its `options`, or an instance, a table, or a list of these.

    Raises ConfigError or PluginError for what does not fit, and for a method that is more than a mixed batch.
    """
    if isinstance(mix, str):
        plugins = _mixed_only({**options, "name": mix})
    elif isinstance(mix, Mapping | Sequence):
        if options:
            raise ConfigError(
                f"{', '.join(options)}: options of a list or a table go into its tables, such as "
                f'{{"name": "...", "{next(iter(options))}": ...}}'
            )
        plugins = _mixed_only(mix)
    else:
        plugins = _of_instance(mix, options)
    for calls in plugins.mixers:
        for hook in ("extra_losses", "after_step"):
            if calls.has(hook):
                raise other_door(calls, f"implements {hook}")
    return plugins


def _mixed_only(mix: Any) -> Plugins:
    """Mixers without the label policy that they suggest: no door but that of the whole step asks one."""
    return step_plugins(mix=mix, labels=ROLES["labels"].default)


def _several(given: Any) -> Iterable[Any]:
    return given if isinstance(given, Sequence) and not isinstance(given, str) else (given,)


def _of_instance(plugin: object, options: Mapping[str, Any]) -> Plugins:
    """The options of an instance are set already; what belongs to the core stands beside it."""
    own = [key for key in options if key not in CORE_KEYS["mix"]]
    if own and not isinstance(plugin, type):
        raise ConfigError(f"options go to the class: {type(plugin).__name__}({', '.join(own)}=...)")
    plugins = _mixed_only(plugin)
    table, faults = plugin_table(MixTable, {**options, "name": plugins.mixers[0].name}, ("mix",))
    if table is None:
        raise_faults(faults, "this mixer")
    return attrs.evolve(plugins, probabilities=probabilities_of([table.probability]), group_sizes=(table.group_size,))


def refuse_more_than_a_batch(calls: PluginCalls, mix: Mix) -> None:
    """ConfigError for a mix that a loop cannot train on by its images and targets alone."""
    if mix.stage is not None:
        raise other_door(calls, "mixes inside the network")
    if mix.head is not None or mix.views:
        raise other_door(calls, "trains on more than the mixed batch")


def other_door(calls: PluginCalls, why: str) -> ConfigError:
    """The error that sends a method to `create_step`."""
    return ConfigError(
        f"{calls.label} {why}, which create_mixer cannot give; "
        f"use mixcore.create_step(model, mix={calls.name!r}, num_classes=..., iterations=...), which is the whole step"
    )
