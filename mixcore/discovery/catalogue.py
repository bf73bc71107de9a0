"""Which plugins are installed: names from package metadata, nothing imported."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from importlib.metadata import EntryPoint, PackageNotFoundError, entry_points, metadata, requires

import attrs
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from mixcore.config.faults import nearest
from mixcore.errors import PluginConflictError, UnknownPluginError

__all__ = ["GROUP", "Entry", "distribution_of", "find", "host_version", "installed", "published"]

GROUP = "mixcore"
"""Group of the entry points; also the distribution whose names are reserved."""


@attrs.frozen(order=False)
class Entry:
    """One name that one installed distribution claims."""

    name: str
    value: str
    """Where its class is, as `module:Class`."""
    distribution: str
    version: str
    summary: str
    requires: tuple[str, ...]
    """What the distribution depends on, as its metadata says it."""

    @property
    def label(self) -> str:
        """What messages call the plugin: `cutmix (mixcore-plugin-cutmix 0.1.0)`."""
        return f"{self.name} ({self.distribution} {self.version})"


def _entry(point: EntryPoint) -> Entry | None:
    if point.dist is None:
        return None
    return Entry(
        name=point.name,
        value=point.value,
        distribution=point.dist.name,
        version=point.dist.version,
        summary=point.dist.metadata["Summary"] or "",
        requires=tuple(point.dist.requires or ()),
    )


def installed() -> dict[str, list[Entry]]:
    """Who claims each name, sorted by name; more than one entry of a name is a conflict."""
    claims: dict[str, list[Entry]] = {}
    for point in entry_points(group=GROUP):
        entry = _entry(point)
        if entry is not None and entry not in claims.get(entry.name, ()):
            claims.setdefault(entry.name, []).append(entry)
    return dict(sorted(claims.items()))


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


def find(name: str, claims: Mapping[str, list[Entry]]) -> Entry:
    """The one entry of this name.

    Raises UnknownPluginError with the installed names, the nearest spelling and the pip line; PluginConflictError where
    several distributions claim the name.
    """
    entries = claims.get(name, [])
    if not entries:
        raise UnknownPluginError(_unknown(name, claims))
    if len(entries) > 1:
        raise PluginConflictError(_conflict(name, entries))
    return entries[0]


def _unknown(name: str, names: Iterable[str]) -> str:
    names = list(names)
    known = {found.removeprefix(distribution_of("")).replace("-", "_"): found for found in published()}
    near = nearest(name, [*names, *known])
    hint = f'; did you mean "{near}"?' if near not in (None, name) else "."
    message = f'no installed plugin is called "{name}"{hint} Installed: {", ".join(names) or "none"}.'
    if near is None and re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", name):
        return f"{message} If it is published as a plugin: pip install {distribution_of(name)}"
    if near in known and near not in names:
        return f"{message} Install it with: pip install {known[near]}"
    return message


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
