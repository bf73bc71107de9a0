"""From an entry to its class, or an error that says which side is at fault and what to do.

The order: versions by metadata, import, attribute, the contract of a plugin class, version of the hook specification.
"""

from __future__ import annotations

from typing import Any

import attrs
from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from mixcore.config.structure import option_fields
from mixcore.config.tables import CORE_KEYS
from mixcore.discovery.catalogue import GROUP, host_version
from mixcore.entry_points import Entry, load_object
from mixcore.errors import BrokenPluginError, PluginVersionError
from mixcore.hooks.roles import EXTRA, ROLES, role_of
from mixcore.hooks.version import FIRST_MINOR, SPEC_VERSION
from mixcore.words import suggestion

__all__ = ["check_class", "load"]


def load(entry: Entry) -> type[Any]:
    """The plugin class of the entry, ready to be given options.

    Raises PluginVersionError where the plugin and this mixcore are not made for each other, BrokenPluginError where it
    cannot be imported (the cause chained) or its class is no plugin class.
    """
    _check_host(entry)
    found: type[Any] = load_object(entry)
    check_class(found, entry.label)
    return found


def _check_host(entry: Entry) -> None:
    """Compare what the distribution says it requires of mixcore with this mixcore; pip may have been overruled."""
    host = Version(host_version())
    for text in entry.requires:
        try:
            requirement = Requirement(text)
        except InvalidRequirement:
            continue
        if canonicalize_name(requirement.name) != GROUP:
            continue
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        if not requirement.specifier.contains(host, prereleases=True):
            too_old = any(_asks_for_newer(spec.operator, spec.version, host) for spec in requirement.specifier)
            advice = f"pip install --upgrade {GROUP if too_old else entry.distribution}"
            raise PluginVersionError(
                f"{entry.label} requires mixcore {requirement.specifier}, this is mixcore {host}; "
                f"upgrade {'mixcore' if too_old else 'the plugin'}: {advice}"
            )


def _asks_for_newer(operator: str, version: str, host: Version) -> bool:
    try:
        return operator in (">=", ">", "~=", "==", "===") and Version(version.removesuffix(".*")) > host
    except InvalidVersion:
        return False


def check_class(cls: Any, label: str) -> None:
    """Hold a class to the contract of plugin classes; BrokenPluginError or PluginVersionError say what it breaks."""
    if not isinstance(cls, type):
        raise BrokenPluginError(f"{label} is a {type(cls).__name__}, expected a class; see docs/writing_a_plugin.md")
    label = f"{label}: class {cls.__name__}"
    if not attrs.has(cls):
        raise BrokenPluginError(f"{label} is no attrs class; put @attrs.define(eq=False, kw_only=True) above it")
    if cls.__eq__ is not object.__eq__:
        raise BrokenPluginError(f"{label} compares by value; put @attrs.define(eq=False, kw_only=True) above it")
    _check_spec(getattr(cls, "spec_version", FIRST_MINOR), label)
    role, known = role_of(cls), [name for name in ROLES if name != EXTRA]
    if getattr(cls, "role", None) is not None and role not in known:
        near = suggestion(role, known) if isinstance(role, str) else ""
        raise BrokenPluginError(
            f"{label} has role {role!r}, expected one of {', '.join(known)}, or none for an extra{near}"
        )
    try:
        fields = option_fields(cls)
    except Exception as error:
        raise BrokenPluginError(
            f"{label}: the types of its fields cannot be read: {error}; names in them must be importable at run time, "
            "not only under TYPE_CHECKING"
        ) from error
    reserved = sorted(CORE_KEYS[role] & fields.keys())
    if reserved:
        raise BrokenPluginError(
            f"{label} has a field {reserved[0]!r}, a key of the core's own in [{role}]; give it another name"
        )


def _check_spec(version: object, label: str) -> None:
    if not (isinstance(version, tuple) and len(version) == 2 and all(isinstance(part, int) for part in version)):
        raise BrokenPluginError(f"{label} has spec_version {version!r}, expected a pair such as {SPEC_VERSION}")
    written, host = f"{version[0]}.{version[1]}", f"{SPEC_VERSION[0]}.{SPEC_VERSION[1]}"
    if version[0] < SPEC_VERSION[0]:
        side = "upgrade the plugin"
    elif version > SPEC_VERSION:
        side = "upgrade mixcore: pip install --upgrade mixcore"
    else:
        return
    raise PluginVersionError(
        f"{label} was written for version {written} of the hook specification, this mixcore has {host}; {side}"
    )
