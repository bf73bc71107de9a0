"""Which plugins are installed: names from package metadata, nothing imported."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping
from importlib.metadata import Distribution, PackageNotFoundError, metadata, requires

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from mixcore.entry_points import Entry, Unreadable, entries_in, lines_in, unreadable_in
from mixcore.errors import PluginConflictError, UnknownPluginError
from mixcore.words import cut, nearest

__all__ = ["GROUP", "distribution_of", "find", "host_version", "installed", "published", "unreadable"]

GROUP = "mixcore"
"""Group of the entry points; also the distribution whose names are reserved."""


def installed() -> dict[str, list[Entry]]:
    """Who claims each name, sorted by name; more than one entry of a name is a conflict.

    Distributions that cannot be read claim nothing: :func:`unreadable` names them.
    """
    claims: dict[str, list[Entry]] = {}
    for entry in entries_in(GROUP):
        if entry not in claims.get(entry.name, ()):
            claims.setdefault(entry.name, []).append(entry)
    return dict(sorted(claims.items()))


def unreadable() -> list[Unreadable]:
    """The distributions whose metadata name mixcore's group and cannot be read."""
    return unreadable_in(GROUP)


def distribution_of(name: str) -> str:
    """The distribution that a plugin of this name has by convention."""
    return f"mixcore-plugin-{name.lower().replace('_', '-')}"


def published() -> frozenset[str]:
    """Distributions of plugins that mixcore itself knows: those that its extra `all` brings."""
    try:
        requirements = map(Requirement, requires(GROUP) or ())
    except PackageNotFoundError:
        return frozenset()
    prefix = distribution_of("")
    return frozenset(found.name for found in requirements if canonicalize_name(found.name).startswith(prefix))


def find(name: str, claims: Mapping[str, list[Entry]], offered: Callable[[], Collection[str]] | None = None) -> Entry:
    """The one entry of this name.

    Raises UnknownPluginError with what is installed, the nearest spelling and the pip line, where `offered` gives the
    names to speak of (all, by default); PluginConflictError where several distributions claim the name.
    """
    entries = claims.get(name, [])
    if not entries:
        raise UnknownPluginError(_unknown(name, claims, offered() if offered else claims))
    if len(entries) > 1:
        raise PluginConflictError(_conflict(name, entries))
    return entries[0]


def _unknown(name: str, claims: Collection[str], names: Collection[str]) -> str:
    known = {found.removeprefix(distribution_of("")).replace("-", "_"): found for found in published()}
    absent = {found: distribution for found, distribution in known.items() if found not in claims}
    near = nearest(name, [*names, *absent])
    hint = f'; did you mean "{near}"?' if near not in (None, name) else "."
    message = f'no installed plugin is called "{cut(name)}"{hint} Installed: {", ".join(names) or "none"}.'
    broken = "".join(f" {found}." for found in unreadable())
    if near is None and re.fullmatch(r"[A-Za-z][A-Za-z0-9_]{0,50}", name):
        return f"{message} {_how_to_get(distribution_of(name), 'If it is published as a plugin')}{broken}"
    if near in absent:
        return f"{message} {_how_to_get(absent[near], 'Install it with')}{broken}"
    return f"{message}{broken}"


def _how_to_get(name: str, when: str) -> str:
    """The pip line; a distribution that is there without offering anything is not to be installed once more."""
    try:
        found = Distribution.from_name(name)
        offers = any(lines_in(GROUP, found.read_text("entry_points.txt") or ""))
    except Exception:  # not installed, or nothing that can be read
        return f"{when}: pip install {name}"
    if offers or found.version is None:
        return f"{when}: pip install {name}"
    return (
        f'{name} {found.version} is installed and offers no plugin: it has no entry point in the group "{GROUP}". '
        f"Install it again: pip install --force-reinstall --no-deps {name}"
    )


def _conflict(name: str, entries: Iterable[Entry]) -> str:
    own = [entry for entry in entries if canonicalize_name(entry.distribution) == GROUP]
    others = sorted((entry for entry in entries if entry not in own), key=lambda entry: entry.distribution)
    claimants = " and ".join(f"{entry.distribution} {entry.version}" for entry in (*own, *others))
    why = "; it is a name of mixcore's own, so no other may have it" if own else ""
    remove = " or ".join(f"pip uninstall {entry.distribution}" for entry in others)
    return f'"{name}" is claimed by {claimants}{why}. Remove one: {remove}'


def host_version() -> str:
    """The version of mixcore that is installed."""
    return metadata(GROUP)["Version"]
