"""What a plugin declares beside its hooks: needs, what it provides and accepts, stages, what of the batch it reads."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import attrs

from mixcore.errors import BrokenPluginError
from mixcore.hooks.markers import PROJECT
from mixcore.hooks.roles import EXTRA, ROLES, STEP_ROLES, SUGGESTED_ROLES, role_of
from mixcore.words import suggestion

__all__ = ["DECLARATIONS", "LABEL_KINDS", "NETWORK_NEEDS", "Declared", "declared", "own_attributes"]

DECLARATIONS = (
    *("role", "spec_version", "needs", "provides", "accepts", "stages"),
    *("find_unused_parameters", "suggests", "contract", "augmentations", "maps", "gives_maps"),
    "reads_partner_pixels",
)
"""Class attributes that mixcore reads."""
NEAR = 0.8
"""How alike two names are, of 1, for one to be taken for a misspelt other."""

NETWORK_NEEDS = frozenset({"attention", "stages", "features", "head", "tokens", "class_activation"})
"""What a plugin may need of the backbone."""
MIXER_NEEDS = frozenset({"mask"})
"""What a plugin may need of at least one mixer, and a mixer may provide: a mask that varies over the image."""
LABEL_KINDS = ("class", "soft", "multi_label", "value")
SUGGESTED = (*SUGGESTED_ROLES, "predictor")
_ASKED: Mapping[str, tuple[str, ...]] = {
    **{role.duty: (name,) for name, role in ROLES.items() if role.duty is not None},
    **{hook: (name,) for name, role in ROLES.items() for hook in role.hooks},
    "choose_mixer": (),
    "extra_losses": tuple(STEP_ROLES),
    "scalars": tuple(STEP_ROLES),
}
"""Roles whose plugins are asked for a hook; a hook that is not here is asked of every plugin."""


@attrs.frozen
class Declared:
    """The declarations of one instance, each checked; those that are missing have their defaults."""

    needs: frozenset[str]
    provides: frozenset[str]
    accepts: frozenset[str]
    stages: tuple[str | int, ...]
    suggests: Mapping[str, str]
    augmentations: int = 0
    """Further augmentations of the batch that it wants."""
    maps: tuple[str, ...] = ()
    """Names of the batch's maps that it reads."""
    gives_maps: str = ""
    """Of a data set: the setting by which it gives a map, whose name stands as `{name}`; empty where it has none."""
    reads_partner_pixels: bool = False
    """Whether it looks at the partner, in a map of it, where a mask shows it."""


def declared(plugin: Any, label: str) -> Declared:
    """Read the declarations of a plugin instance; properties may look at its options.

    Raises BrokenPluginError for what has no meaning: a misspelt declaration or need, a hook that a plugin of this role
    is never asked for.
    """
    _check_spelling(type(plugin), label)
    _check_hooks(type(plugin), label)
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
        augmentations=_augmentations(plugin, label),
        maps=_maps(plugin, label),
        gives_maps=_gives_maps(plugin, label),
        reads_partner_pixels=_flag(plugin, "reads_partner_pixels", label),
    )


def _augmentations(plugin: Any, label: str) -> int:
    count = _read(plugin, "augmentations", 0, label)
    if not isinstance(count, int) or isinstance(count, bool) or count < 0:
        raise BrokenPluginError(
            f"{label}: augmentations is {count!r}, expected how many further augmentations of the batch it wants, such "
            "as 1"
        )
    return count


def _maps(plugin: Any, label: str) -> tuple[str, ...]:
    names = _read(plugin, "maps", (), label)
    if not isinstance(names, tuple | list | frozenset | set) or not all(isinstance(name, str) for name in names):
        raise BrokenPluginError(f'{label}: maps is {names!r}, expected the names of maps, such as ("objects",)')
    return tuple(dict.fromkeys(names))


def _gives_maps(plugin: Any, label: str) -> str:
    found = _read(plugin, "gives_maps", "", label)
    if not isinstance(found, str) or (found and "{name}" not in found):
        raise BrokenPluginError(
            f"{label}: gives_maps is {found!r}, expected the setting by which it gives a map, whose name is written "
            "{name}, such as 'map_folders = { {name} = \"FOLDER\" }'"
        )
    return found


def _flag(plugin: Any, attribute: str, label: str) -> bool:
    found = _read(plugin, attribute, False, label)
    if not isinstance(found, bool):
        raise BrokenPluginError(f"{label}: {attribute} is {found!r}, expected True or False")
    return found


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


def own_attributes(cls: type) -> Iterator[tuple[str, Any]]:
    """Name and value of the public class attributes that are neither options nor methods, the nearest class's first.

    Names in capitals are constants, and left out.
    """
    options = {field.name for field in attrs.fields(cls)}
    seen: set[str] = set()
    for base in cls.__mro__[:-1]:
        for name, value in vars(base).items():
            method = callable(value) or isinstance(value, classmethod | staticmethod)
            if not (name.startswith("_") or name.isupper() or name in options or name in seen or method):
                yield name, value
            seen.add(name)


def _check_spelling(cls: type, label: str) -> None:
    """Refuse an attribute that is named almost like a declaration that the class does not have: nobody reads it."""
    missing = [name for name in DECLARATIONS if not hasattr(cls, name)]
    for name, _ in own_attributes(cls):
        near = [] if name in DECLARATIONS else difflib.get_close_matches(name.lower(), missing, n=1, cutoff=NEAR)
        if near:
            raise BrokenPluginError(
                f"{label}: class {cls.__name__} has {name}, which mixcore does not read; did you mean {near[0]}? "
                f"An attribute of your own gets another name, such as _{name}"
            )


def _check_hooks(cls: type, label: str) -> None:
    """Refuse a hook that a plugin of this role is never asked for."""
    role = role_of(cls)
    for name, method in inspect.getmembers(cls, inspect.isfunction):
        marked = getattr(method, f"{PROJECT}_impl", None)
        if marked is None or marked.get("wrapper") or marked.get("hookwrapper") or role in _ASKED.get(name, (role,)):
            continue
        raise BrokenPluginError(f"{label}: class {cls.__name__} {_never_asked(name, role)}")


def _never_asked(hook: str, role: str) -> str:
    roles = _ASKED[hook]
    own = "no role" if role == EXTRA else f'role "{role}"'
    if not roles:
        return f"implements {hook}, which the core does; extend it from outside: @hookimpl(wrapper=True)"
    if EXTRA in roles:
        who, remedy = f"{_plurals(roles)} are", "ship an extra beside it"
    else:
        who = f"the owner of [{roles[0]}] is" if ROLES[roles[0]].table else f"a {ROLES[roles[0]].title} is"
        remedy = f'write role = "{roles[0]}"' if role == EXTRA else "ship a class of its own for it"
    return f"implements {hook}, but has {own}, and only {who} asked for that hook; {remedy}"


def _plurals(roles: Sequence[str]) -> str:
    *others, last = (ROLES[role].plural for role in roles)
    return f"{', '.join(others)} and {last}" if others else last


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
