"""Whether plugins, task, length of the run and network fit together: nothing is found out in the first iteration."""

from __future__ import annotations

import functools
from collections.abc import Collection, Iterable, Sequence
from typing import TYPE_CHECKING, Protocol

from mixcore.discovery.alternatives import installed_plugins, options_without
from mixcore.discovery.declared import MIXER_NEEDS, NETWORK_NEEDS, Declared, declared
from mixcore.errors import ConfigError, HookError
from mixcore.hooks.roles import EXTRA, ROLES, role_of

if TYPE_CHECKING:
    from mixcore.discovery.plugins import Plugins
    from mixcore.hooks.calls import PluginCalls
    from mixcore.types import Task

__all__ = ["Everyone", "check_maps", "check_mixers", "check_network", "check_other_images", "check_run", "check_task"]


class Everyone(Protocol):
    """Plugins that are held to one task and network: those of a run, or an analysis alone."""

    @property
    def everyone(self) -> tuple[PluginCalls, ...]:
        """The calls into each of them."""
        ...


def _declarations(plugins: Everyone) -> list[tuple[PluginCalls, Declared]]:
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
    names = [mixer.name for mixer in plugins.mixers]
    do_not = f"{' and '.join(names)} {'does' if len(names) == 1 else 'do'} not"
    _refuse(
        [
            f"{calls.label} needs a mixer that provides {_listed(missing)}, and {do_not}; name a [mix] that "
            f"does{_installed_providing(missing)}, or take another plugin in place of {calls.name}"
            f"{_undemanding(calls)}"
            for calls, own in _declarations(plugins)
            if (missing := own.needs & MIXER_NEEDS - provided)
        ]
    )


def _installed_providing(missing: Collection[str]) -> str:
    return _installed(name for name, own in installed_plugins("mix") if set(missing) <= own.provides)


def _undemanding(calls: PluginCalls) -> str:
    """A plugin of the same role that asks nothing of mixers and networks, in brackets; empty where there is none."""
    found = ROLES[role_of(type(calls.plugin))].undemanding
    return f" ({found})" if found else ""


def check_task(plugins: Everyone, task: Task) -> None:
    """Refuse a plugin that does not accept the kind of labels that the task has."""
    _refuse(
        [
            f"{calls.label} takes labels of kind {_listed(own.accepts)}, and this task has {task.label_kind} labels; "
            f"take another plugin in place of {calls.name}{_installed_accepting(calls, task.label_kind)}, or data with "
            f"{_listed(own.accepts)} labels"
            for calls, own in _declarations(plugins)
            if task.label_kind not in own.accepts
        ]
    )


def check_maps(plugins: Plugins, given: Collection[str]) -> None:
    """Refuse a plugin that reads a map of the batch which is not among those that the data gives, by name."""
    there = f"the maps {', '.join(sorted(given))}" if given else "no maps"
    data = "the data" if plugins.data is None else plugins.data.name
    _refuse(
        [
            f"{calls.label} reads the map{'' if len(missing) == 1 else 's'} {', '.join(missing)}, and {data} gives "
            f"{there}; {_giving(plugins.data, missing)}, or take another plugin in place of {calls.name}"
            for calls, own in _declarations(plugins)
            if (missing := [name for name in own.maps if name not in given])
        ]
    )


def _giving(data: PluginCalls | None, missing: Sequence[str]) -> str:
    """What to set for the data to give these maps, or which data gives them."""
    setting = "" if data is None else declared(data.plugin, data.label).gives_maps
    if setting:
        return f"set {_settings(setting, missing)} in [data]"
    others = ((name, own.gives_maps) for name, own in installed_plugins("data"))
    named = _installed(f"{name} by {_settings(setting, missing)}" for name, setting in others if setting)
    return (
        f"name a [data] that gives it{named}, or one of your own whose training set has it (Resident.maps, or a data "
        "set of triples (image, label, maps))"
    )


def _settings(setting: str, names: Sequence[str]) -> str:
    return " and ".join(setting.replace("{name}", name) for name in names)


@functools.lru_cache(maxsize=64)  # asked in every iteration, where reading declarations costs as much as a map
def check_other_images(calls: PluginCalls) -> None:
    """Refuse to ask a saliency that reads maps for images other than the batch's, which have none. HookError."""
    own = declared(calls.plugin, calls.label)
    if own.maps or own.augmentations:
        what = f"the map {own.maps[0]!r}" if own.maps else "further augmentations"
        raise HookError(
            f"{calls.label} reads {what} of the batch, and was asked for images that are not the batch's; ask for "
            "those that the hook was given: probe.saliency(self.saliency, images, labels)"
        )


def check_run(plugins: Plugins, task: Task, iterations: int) -> tuple[str, ...]:
    """Ask every plugin whether a run of `iterations` iterations at this task suits it (hook `check`).

    Gives the sentences to say at the start, each with the name of the plugin whose it is. Raises ConfigError with what
    all plugins refuse, first of all kinds of labels that they do not take.
    """
    check_task(plugins, task)
    sentences, refusals = _of_moved_partners(plugins), []
    for calls in plugins.everyone:
        try:
            sentences += [f"{calls.name}: {sentence}" for sentence in calls.check(task=task, iterations=iterations)]
        except ConfigError as error:
            refusals.append((calls, error))
    if len(refusals) == 1:
        raise refusals[0][1]
    _refuse([f"{calls.label}: {error}" for calls, error in refusals])
    return tuple(dict.fromkeys(sentences))


def _of_moved_partners(plugins: Plugins) -> list[str]:
    """What is to be said where masks show partners moved or resized, and a map of the partner is read by the mask."""
    moving = [
        mixer.name
        for mixer in plugins.mixers
        if "mask" in declared(mixer.plugin, mixer.label).provides
        and not getattr(mixer.plugin, "contract", {}).get("partner_pixels", True)
    ]
    return [
        f"{calls.name}: {_listed(moving)} moves or resizes the partner, and {calls.name} reads a map of the partner as "
        "it was: under the mask it weighs other pixels than those shown; labels that read no such map (weights, area) "
        "suit every mask"
        for calls, own in _declarations(plugins)
        if moving and own.reads_partner_pixels
    ]


def _installed_accepting(calls: PluginCalls, kind: str) -> str:
    role = role_of(type(calls.plugin))
    if role == EXTRA:
        return ""
    return _installed(name for name, own in installed_plugins(role) if kind in own.accepts)


def _installed(names: Iterable[str]) -> str:
    """The installed plugins that would do, in brackets; empty where there are none."""
    found = ", ".join(names)
    return f" (installed: {found})" if found else ""


def check_network(plugins: Everyone, provided: Collection[str], stage_names: Sequence[str]) -> None:
    """Refuse a plugin that needs of the network what it does not offer, or a stage number that it does not have.

    `provided` are the network's capabilities, of which those alone are looked up that a plugin needs; `stage_names` its
    stages in order. Stages named by module are looked up where the network is built. Negative numbers count from the
    last stage.
    """
    faults = []
    way_out = [] if all(name in provided for name in _INTERFACE) else [_WAY_OUT]
    last = len(stage_names)
    for calls, own in _declarations(plugins):
        asked = own.needs | ({"features"} & set(own.stages))
        # not the difference of sets: it would look up what nobody needs
        missing = {name for name in asked & NETWORK_NEEDS if name not in provided}
        if missing:
            remedies = [
                *(f"set {option} of {calls.name}" for option in options_without(calls.plugin, missing, provided)),
                f"name a [backbone] that has it{_where(missing)}",
                *(way_out if missing - {"attention"} else []),
                f"take another plugin in place of {calls.name}{_undemanding(calls)}",
            ]
            offered = _listed(provided) or "none of these"
            faults.append(
                f"{calls.label} needs {_listed(missing)} of the backbone, and this one offers {offered}; "
                f"{', '.join(remedies[:-1])}, or {remedies[-1]}"
            )
        if "stages" in missing:
            continue
        faults += [
            f"{calls.label} wants stage {stage}, and this backbone has {_numbered(stage_names)}; "
            f"choose one of these in the options of {calls.name}, "
            f"{''.join(f'{remedy}, ' for remedy in way_out)}or a [backbone] with more stages"
            for stage in own.stages
            if isinstance(stage, int) and not -last <= stage <= last
        ]
    _refuse(faults)


_INTERFACE = frozenset({"features", "head"})
_WAY_OUT = (
    'give this one timm\'s interface by mixcore.as_backbone(module, features="layer4", classifier="fc") (in a '
    "[backbone] plugin from mixcore.api)"
)


def _numbered(stage_names: Sequence[str]) -> str:
    numbered = ", ".join(f"{k} ({name})" for k, name in enumerate(stage_names, 1))
    return f"stages 0 to {len(stage_names)}: 0 (the input), {numbered}" if numbered else "stage 0 (the input) only"


def _where(missing: Collection[str]) -> str:
    if {"attention", "tokens"} & set(missing) and not _INTERFACE & set(missing):
        return " (a vision transformer such as vit_tiny_patch16_224)"
    if "class_activation" in missing:
        return " (one that averages over positions, such as resnet18)"
    return " (one that lists its stages in feature_info, as timm's networks do)"


def _listed(names: Collection[str]) -> str:
    return " and ".join(sorted(names))
