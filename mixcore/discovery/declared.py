"""What a plugin declares beside its hooks: needs, what it provides and accepts, stages, suggestions."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import attrs

from mixcore.config.faults import suggestion
from mixcore.errors import BrokenPluginError

__all__ = ["LABEL_KINDS", "NETWORK_NEEDS", "Declared", "declared"]

NETWORK_NEEDS = frozenset({"attention", "stages", "tokens", "class_activation"})
"""What a plugin may need of the backbone."""
MIXER_NEEDS = frozenset({"mask"})
"""What a plugin may need of at least one mixer, and a mixer may provide: a mask that varies over the image."""
LABEL_KINDS = ("class", "soft", "multi_label", "value")
SUGGESTED = ("labels", "loss", "predictor")


@attrs.frozen
class Declared:
    """The declarations of one instance, each checked; those that are missing have their defaults."""

    needs: frozenset[str]
    provides: frozenset[str]
    accepts: frozenset[str]
    stages: tuple[str | int, ...]
    suggests: Mapping[str, str]


def declared(plugin: Any, label: str) -> Declared:
    """Read the declarations of a plugin instance; properties may look at its options.

    Raises BrokenPluginError for a declaration that has no meaning, such as a misspelt need.
    """
    suggests = _read(plugin, "suggests", {}, label)
    if not isinstance(suggests, Mapping) or not all(isinstance(name, str) for name in suggests.values()):
        raise BrokenPluginError(f'{label}: suggests is {suggests!r}, expected a table such as {{"labels": "area"}}')
    _names(plugin, "suggests", SUGGESTED, label)
    stages = _read(plugin, "stages", (), label)
    if (
        not _is_collection(stages)
        or isinstance(stages, Mapping)
        or not all(isinstance(stage, str | int) for stage in stages)
    ):
        raise BrokenPluginError(f"{label}: stages is {stages!r}, expected a tuple of stage names or numbers")
    return Declared(
        needs=_names(plugin, "needs", NETWORK_NEEDS | MIXER_NEEDS, label),
        provides=_names(plugin, "provides", MIXER_NEEDS, label),
        accepts=_names(plugin, "accepts", LABEL_KINDS, label, default=LABEL_KINDS),
        stages=tuple(stages),
        suggests=dict(suggests),
    )


def _names(
    plugin: Any, attribute: str, allowed: Collection[str], label: str, default: Collection[str] = ()
) -> frozenset[str]:
    names = _read(plugin, attribute, default, label)
    if isinstance(names, str):
        raise BrokenPluginError(f'{label}: {attribute} is the string "{names}", expected frozenset({{"{names}"}})')
    if not _is_collection(names):
        example = f'frozenset({{"{min(allowed)}"}}), or no such line'
        raise BrokenPluginError(f"{label}: {attribute} is {names!r}, expected a set of names such as {example}")
    for name in names:
        if not isinstance(name, str) or name not in allowed:
            choices = ", ".join(sorted(allowed))
            raise BrokenPluginError(f"{label}: {attribute} has {name!r}, known are {choices}{_near(name, allowed)}")
    return frozenset(names)


def _near(name: object, allowed: Collection[str]) -> str:
    return suggestion(name, allowed) if isinstance(name, str) else ""


def _is_collection(value: object) -> bool:
    return isinstance(value, Collection) and not isinstance(value, str | bytes)


def _read(plugin: Any, attribute: str, default: Any, label: str) -> Any:
    """The declaration; a property of a stranger may raise anything."""
    try:
        return getattr(plugin, attribute, default)
    except Exception as error:
        raise BrokenPluginError(f"{label}: {attribute} raises {type(error).__name__}: {error}") from error
