"""Entry points of installed distributions: read from their metadata, nothing imported; and one brought to its object.

Whatever is broken in one distribution is told of it alone: the others are read all the same.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator
from importlib.metadata import Distribution, distributions
from types import ModuleType
from typing import Any

import attrs
from packaging.utils import canonicalize_name

from mixcore.errors import BrokenPluginError
from mixcore.words import cut, suggestion

__all__ = ["Entry", "Unreadable", "broken", "entries_in", "lines_in", "load_object", "unreadable_in"]


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


@attrs.frozen
class Unreadable:
    """A distribution that has something to say to mixcore, in metadata that cannot be read."""

    distribution: str
    """Its name, or the folder of its metadata where it has none."""
    fault: str

    def __str__(self) -> str:
        return f"{self.distribution}: {self.fault}; install it again, or remove it"


def entries_in(group: str) -> list[Entry]:
    """The entries of a group. Distributions that cannot be read have none: :func:`unreadable_in` names them."""
    return [entry for found in _survey_metadata(group) if isinstance(found, list) for entry in found]


def unreadable_in(group: str) -> list[Unreadable]:
    """The distributions whose metadata name the group and cannot be read."""
    return [found for found in _survey_metadata(group) if isinstance(found, Unreadable)]


def _survey_metadata(group: str) -> Iterator[list[Entry] | Unreadable]:
    """What each distribution has in the group; the first one on the path counts, as for imports."""
    seen: set[str] = set()
    names_group = re.compile(rf"^\s*\[\s*{re.escape(group)}\s*\]", re.MULTILINE)
    for distribution in distributions():
        try:
            text = distribution.read_text("entry_points.txt") or ""
        except (OSError, ValueError) as error:
            if "mixcore" in _place_of(distribution):  # any other distribution is no concern of ours
                yield Unreadable(_place_of(distribution), f"its entry points cannot be read: {error}")
            continue
        if not names_group.search(text):
            continue
        try:
            entries = _entries(distribution, group)
        except Exception as error:  # metadata of strangers: importlib.metadata raises whatever it stumbles over
            yield Unreadable(_place_of(distribution), f"its metadata cannot be read: {error}")
            continue
        name = canonicalize_name(distribution.name)
        if name not in seen:
            seen.add(name)
            yield entries


def _entries(distribution: Distribution, group: str) -> list[Entry]:
    """The entries of one distribution. Raises ValueError, or whatever importlib.metadata stumbles over."""
    information: Any = distribution.metadata
    for key in ("Name", "Version"):
        if not information.get(key):  # a key that is missing: the backport of importlib.metadata raises
            raise ValueError(f"it has no {key}")
    requires = tuple(distribution.requires or ())  # each look parses the metadata anew
    return [
        Entry(
            name=name,
            value=value,
            distribution=information["Name"],
            version=information["Version"],
            summary=information.get("Summary") or "",
            requires=requires,
        )
        for name, value in lines_in(group, distribution.read_text("entry_points.txt") or "")
    ]


def lines_in(group: str, text: str) -> Iterator[tuple[str, str]]:
    """(name, value) of each entry of the group in the text of an entry_points.txt. ValueError for another line."""
    section = ""
    for line in map(str.strip, text.splitlines()):
        if line.startswith("["):
            section = line.strip("[] ")
        elif section == group and line and not line.startswith(("#", ";")):
            name, equals, value = (part.strip() for part in line.partition("="))
            if not (equals and name and value):
                raise ValueError(f'its entry point "{cut(line)}" is no "name = module:Class"')
            yield name, value


def _place_of(distribution: Distribution) -> str:
    """The distribution's name, or where its metadata lie."""
    try:
        name = distribution.metadata["Name"]
    except Exception:
        name = None
    return name or str(getattr(distribution, "_path", "a distribution without a name"))


def load_object(entry: Entry) -> Any:
    """What the entry names, imported. BrokenPluginError where it cannot be had, the cause chained."""
    found: Any = _import(entry)
    _, _, attribute = entry.value.partition(":")
    for name in attribute.split(".") if attribute else ():
        if not hasattr(found, name):
            hint = suggestion(name, [key for key in vars(found) if not key.startswith("_")])
            raise broken(entry, f"{getattr(found, '__name__', found)} has no attribute {name}{hint}")
        found = getattr(found, name)
    return found


def broken(entry: Entry, what: str) -> BrokenPluginError:
    """The error that says of an entry what is wrong with it."""
    return BrokenPluginError(f'{entry.label}, entry point "{entry.name} = {entry.value}": {what}')


def _import(entry: Entry) -> ModuleType:
    module = entry.value.partition(":")[0]
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        missing = error.name or str(error)
        if module == missing or module.startswith(f"{missing}."):
            what = (
                f"its own module {missing} is missing; install it again: "
                f"pip install --force-reinstall --no-deps {entry.distribution}"
            )
        else:
            what = f"it needs the module {missing}, which is not installed; install what {missing} comes from"
        raise broken(entry, what) from error
    except ImportError as error:
        what = f"ImportError while it was imported: {error}; its dependencies may have other versions than it expects"
        raise broken(entry, what) from error
    except (Exception, SystemExit) as error:
        raise broken(entry, f"{type(error).__name__} while it was imported: {error}") from error
