"""Whether plugins, task and network fit together: checked before the first iteration, nothing is found out later."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from mixcore.discovery.declared import MIXER_NEEDS, NETWORK_NEEDS, Declared, declared
from mixcore.errors import ConfigError

if TYPE_CHECKING:
    from mixcore.discovery.manager import Plugins
    from mixcore.hooks.calls import PluginCalls
    from mixcore.types import Task

__all__ = ["check_mixers", "check_network", "check_task"]


def _declarations(plugins: Plugins) -> list[tuple[PluginCalls, Declared]]:
    return [(calls, declared(calls.plugin, calls.label)) for calls in plugins.everyone]


def _refuse(faults: Sequence[str]) -> None:
    if len(faults) == 1:
        raise ConfigError(faults[0])
    if faults:
        raise ConfigError("\n  ".join(("these cannot be combined:", *faults)))


def check_mixers(plugins: Plugins) -> None:
    """Refuse a plugin that needs something of the mixers which none of them provides."""
    provided: set[str] = set()
    for mixer in plugins.mixers:
        provided |= declared(mixer.plugin, mixer.label).provides
    mixers = ", ".join(mixer.name for mixer in plugins.mixers)
    _refuse(
        [
            f"{calls.label} needs a mixer that provides {_listed(missing)}, and {mixers} does not; name a [mix] that "
            f"does (mixcore plugins --check lists them), or take another plugin in place of {calls.name}"
            f"{_default_of(plugins, calls)}"
            for calls, own in _declarations(plugins)
            if (missing := own.needs & MIXER_NEEDS - provided)
        ]
    )


def _default_of(plugins: Plugins, calls: PluginCalls) -> str:
    return ' ([labels] name = "weights" goes with every mixer)' if calls is plugins.labels else ""


def check_task(plugins: Plugins, task: Task) -> None:
    """Refuse a plugin that does not accept the kind of labels that the task has."""
    _refuse(
        [
            f"{calls.label} takes labels of kind {_listed(own.accepts)}, and this task has {task.label_kind} labels; "
            f"take another plugin in place of {calls.name}, or data with {_listed(own.accepts)} labels"
            for calls, own in _declarations(plugins)
            if task.label_kind not in own.accepts
        ]
    )


def check_network(plugins: Plugins, provided: Collection[str], stage_names: Sequence[str]) -> None:
    """Refuse a plugin that needs of the network what it does not offer, or a stage number that it does not have.

    `provided` are the network's capabilities, `stage_names` its stages in order. Stages named by module are looked up
    where the network is built.
    """
    faults = []
    offered = _listed(provided) or "none of these"
    for calls, own in _declarations(plugins):
        missing = own.needs & NETWORK_NEEDS - set(provided)
        if missing:
            faults.append(
                f"{calls.label} needs {_listed(missing)} of the backbone, and this one offers {offered}; "
                f"name a [backbone] that has it{_where(missing)}, or take another plugin in place of {calls.name}"
            )
        faults += [
            f"{calls.label} wants stage {stage}, and this backbone has stages 0 to {len(stage_names)}: "
            f"0 (the input), {', '.join(f'{k} ({name})' for k, name in enumerate(stage_names, 1))}"
            for stage in own.stages
            if isinstance(stage, int) and not 0 <= stage <= len(stage_names)
        ]
    _refuse(faults)


def _where(missing: Collection[str]) -> str:
    return " (a vision transformer such as vit_tiny_patch16_224)" if {"attention", "tokens"} & set(missing) else ""


def _listed(names: Collection[str]) -> str:
    return " and ".join(sorted(names))
