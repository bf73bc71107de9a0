"""The layers of a configuration: the files it extends, the file itself, and `--set`; merged in this order.

Each layer remembers where its keys stand, so that a fault found in the merged tree names the file and line.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path as FilePath
from typing import Any

import attrs

from mixcore.config.faults import Fault, Path, dotted
from mixcore.config.tables import CORE_KEYS
from mixcore.config.text import MAX_DEPTH, BadTextError, key_lines, parse, tree_faults
from mixcore.hooks.roles import TABLE_ROLES
from mixcore.words import LONGEST, cut, nearest

__all__ = ["Layer", "Setting", "key_path", "merge_layers", "overrides_layer", "read_layers", "settings_layer"]


@attrs.define
class Layer:
    """A tree of tables, and for each key the place it was read from (`file:line`, or the `--set` argument)."""

    tree: dict[str, Any]
    places: dict[Path, str]
    source: str

    def place(self, path: Path) -> str:
        """Where the key stands, or a table around it, or a key in it; a lone [[mix]] is also found as [mix]."""
        for length in range(len(path), 0, -1):
            for candidate in (path[:length], (path[0], 0, *path[1:length])):
                if candidate in self.places:
                    return self.places[candidate]
        inside = (place for key, place in self.places.items() if path and key[: len(path)] == path)
        return next(inside, self.source)

    def part(self, path: Path) -> Layer:
        """The table at `path` as a layer of its own: what stands in it stands at the top of that layer."""
        tree: Any = self.tree
        for key in path:
            tree = tree[key]
        depth = len(path)
        places = {key[depth:]: place for key, place in self.places.items() if len(key) > depth and key[:depth] == path}
        return Layer(_copy(tree), places, self.source)


def read_layers(path: FilePath, faults: list[Fault]) -> list[Layer]:
    """The file and all that it extends, the most basic first; what cannot be read is added to `faults`.

    A file that is reached in several ways counts once, where it is reached first.
    """
    return _Reader(faults).read(path, ())


@attrs.define
class _Reader:
    """Reads each file once."""

    faults: list[Fault]
    seen: set[str] = attrs.field(factory=set)
    """Real paths of the files that were read."""

    def read(self, path: FilePath, chain: tuple[FilePath, ...]) -> list[Layer]:
        """Layers of the file that `chain` extends, the last of it directly."""
        by = f"extended by {_shown(chain[-1])}: " if chain else ""
        real = _real_path(path)
        if real in map(_real_path, chain):
            return self._refuse(f"extends goes in a circle: {_circle((*chain, path))}; remove one of these lines")
        if len(chain) == MAX_DEPTH:
            return self._refuse(f"{by}extends goes through more than {MAX_DEPTH} files, one after the other")
        if real in self.seen:
            return []
        self.seen.add(real)
        try:
            text = path.read_bytes().decode()
            tree = parse(text)
        except FileNotFoundError:
            return self._refuse(f"{by}there is no file {_shown(path)}{_nearest_file(path)}")
        except (OSError, ValueError) as error:  # also names with NUL, bytes that are no UTF-8
            line = f":{error.line}" if isinstance(error, BadTextError) and error.line else ""
            what = error.strerror if isinstance(error, OSError) else error
            return self._refuse(f"{by}{_shown(path)}{line}: cannot be read as TOML: {what}")
        shown = _shown(path)
        layer = Layer(tree, {key: f"{shown}:{line}" for key, line in key_lines(text).items()}, shown)
        unusable = tree_faults(tree)
        if unusable:
            self.faults += [_placed(fault, layer) for fault in unusable]
            return []
        return [*self._basis(path, layer, chain), layer]

    def _basis(self, path: FilePath, layer: Layer, chain: tuple[FilePath, ...]) -> list[Layer]:
        extends = layer.tree.pop("extends", [])
        if not (isinstance(extends, list) and all(isinstance(name, str) for name in extends)):
            where = layer.place(("extends",))
            return self._refuse(f'{where}: extends: expected a list of files, such as extends = ["base.toml"]')
        return [found for name in extends for found in self.read(path.parent / name, (*chain, path))]

    def _refuse(self, message: str) -> list[Layer]:
        self.faults.append(Fault((), message))
        return []


def _real_path(path: FilePath) -> str:
    """What tells one file from another; the path itself where it can lead to none, which reading it then says."""
    try:
        return os.path.realpath(path)
    except (OSError, ValueError):
        return str(path)


def _circle(files: Sequence[FilePath]) -> str:
    return " -> ".join(map(_shown, files))


def _shown(path: FilePath) -> str:
    return cut(str(path), 2 * LONGEST)


def _placed(fault: Fault, layer: Layer) -> Fault:
    """The fault with its place in words: the merged tree, which would tell it, is never made."""
    return Fault((), f"{layer.place(fault.path)}: {dotted(fault.path)}: {fault.message}")


def _nearest_file(path: FilePath) -> str:
    if not path.parent.is_dir():
        return f"; there is no folder {_shown(path.parent)} either"
    found = nearest(path.name, [file.name for file in path.parent.glob("*.toml")])
    return f"; did you mean {path.parent / found}?" if found else ""


@attrs.frozen
class Setting:
    """One key that is given by its dotted path, such as `--set mix.alpha=0.2`."""

    key: str
    value: Any
    place: str
    """Where it was given, in words."""


def overrides_layer(overrides: Sequence[str], faults: list[Fault]) -> Layer:
    """All `--set key.path=value` as one layer; a value that is no TOML is a string."""
    settings = []
    for override in overrides:
        key, equals, text = override.partition("=")
        place = f"--set {cut(override, 2 * LONGEST)}"
        if equals and key_path(key):
            settings.append(Setting(key, _value(text), place))
        else:
            faults.append(Fault((), f"{place}: expected key.path=value, such as --set optimizer.lr=0.05"))
    return settings_layer(settings, "--set", faults)


def settings_layer(settings: Iterable[Setting], source: str, faults: list[Fault]) -> Layer:
    """One layer of all the settings; `source` is what messages call it where none of them is meant."""
    layer = Layer({}, {}, source)
    for setting in settings:
        path = key_path(setting.key)
        table = layer.tree
        for name in path[:-1]:
            table = table.setdefault(name, {})
            if not isinstance(table, dict):
                break
        if not isinstance(table, dict):
            above = setting.key.rpartition(".")[0]
            faults.append(Fault((), f"{setting.place}: another {source} gives {above} a plain value"))
            continue
        table[path[-1]] = setting.value
        layer.places[path] = setting.place
    faults += [_placed(fault, layer) for fault in tree_faults(layer.tree)]
    return layer


def key_path(key: str) -> tuple[str, ...]:
    """The names that a dotted key goes through, quoted ones too; empty where it is no key of TOML."""
    try:
        tree: Any = parse(f"{key} = 0") if "\n" not in key else {}
    except BadTextError:
        return ()
    path: list[str] = []
    while isinstance(tree, dict) and len(tree) == 1:
        name, tree = next(iter(tree.items()))
        path.append(name)
    return tuple(path)


def _value(text: str) -> Any:
    try:
        tree = parse(f"value = {text.strip()}")
    except BadTextError:
        return text
    return tree["value"] if len(tree) == 1 else text


def merge_layers(layers: Sequence[Layer], faults: list[Fault], source: str) -> Layer:
    """One layer from all, later ones on top.

    Tables are merged key by key and lists replaced. Where a later layer names another plugin, the earlier one's options
    go; a later [[mix]], or a later [mix] with a name over several, replaces the earlier list whole.
    """
    merged = Layer({}, {}, source)
    for layer in layers:
        for key, value in layer.tree.items():
            _merge_role(merged, layer, key, value, faults) if key in TABLE_ROLES else _merge(merged, (key,), value)
        merged.places.update(layer.places)
    return merged


def _merge_role(merged: Layer, layer: Layer, role: str, value: Any, faults: list[Fault]) -> None:
    earlier = merged.tree.get(role)
    if isinstance(earlier, list) and isinstance(value, Mapping) and earlier:
        if len(earlier) > 1 and "name" not in value:
            names = ", ".join(str(table.get("name")) for table in earlier if isinstance(table, Mapping))
            where = layer.place((role, *value))
            faults.append(
                Fault((), f"{where}: [{role}] is a list here ({names}); give the whole list anew to change one of them")
            )
            return
        earlier = merged.tree[role] = earlier[0] if len(earlier) == 1 else {}
        if not earlier:
            _forget(merged, (role,))
    if isinstance(earlier, dict) and isinstance(value, Mapping):
        if "name" in value and value["name"] != earlier.get("name", value["name"]):
            options = set(earlier) - CORE_KEYS[role]
            for key in options:
                del earlier[key]
            _forget(merged, *((role, key) for key in options), *((role, 0, key) for key in options))
    elif role in merged.tree:
        _forget(merged, (role,))
    _merge(merged, (role,), value)


def _merge(merged: Layer, path: Path, value: Any) -> None:
    table: Any = merged.tree
    for name in path[:-1]:
        table = table[name]
    earlier = table.get(path[-1])
    if isinstance(value, Mapping) and isinstance(earlier, dict) and not _names_another(value, earlier, path):
        for key, item in value.items():
            _merge(merged, (*path, key), item)
    else:
        table[path[-1]] = _copy(value)


def _names_another(value: Mapping[str, Any], earlier: Mapping[str, Any], path: Path) -> bool:
    """Whether a table inside an option of a plugin names another plugin, to which the earlier options say nothing."""
    inside = path[0] in CORE_KEYS and len(path) > 1
    return inside and {"name"} <= value.keys() & earlier.keys() and value["name"] != earlier["name"]


def _copy(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _copy(item) for key, item in value.items()}
    return [_copy(item) for item in value] if isinstance(value, list) else value


def _forget(merged: Layer, *prefixes: Path) -> None:
    """Leave out the places of these paths and of all below them."""
    gone = set(prefixes)
    merged.places = {
        path: place
        for path, place in merged.places.items()
        if not any(path[:length] in gone for length in range(1, len(path) + 1))
    }
