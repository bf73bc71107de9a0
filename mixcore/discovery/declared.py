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
    suggests = getattr(plugin, "suggests", {})
    if not isinstance(suggests, Mapping):
        raise BrokenPluginError(f'{label}: suggests is {suggests!r}, expected a table such as {{"labels": "area"}}')
    _names(plugin, "suggests", SUGGESTED, label)
    stages = getattr(plugin, "stages", ())
    if isinstance(stages, str) or not all(isinstance(stage, str | int) for stage in stages):
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
    names = getattr(plugin, attribute, default)
    if isinstance(names, str):
        raise BrokenPluginError(f'{label}: {attribute} is the string "{names}", expected frozenset({{"{names}"}})')
    for name in names:
        if name not in allowed:
            choices = ", ".join(sorted(allowed))
            raise BrokenPluginError(
                f"{label}: {attribute} has {name!r}, known are {choices}{suggestion(name, allowed)}"
            )
    return frozenset(names)
