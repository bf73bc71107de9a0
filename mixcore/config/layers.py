"""The layers of a configuration: the files it extends, the file itself, and `--set`; merged in this order.

Each layer remembers where its keys stand, so that a fault found in the merged tree names the file and line.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path as FilePath
from typing import Any

import attrs
import tomli

from mixcore.config.faults import Fault, Path, nearest
from mixcore.config.tables import CORE_KEYS

__all__ = ["Layer", "merge_layers", "overrides_layer", "read_layers"]


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


def read_layers(path: FilePath, faults: list[Fault], chain: tuple[FilePath, ...] = ()) -> list[Layer]:
    """The file and all that it extends, the most basic first; what cannot be read is added to `faults`."""
    by = f"extended by {chain[-1]}: " if chain else ""
    if path.resolve() in [earlier.resolve() for earlier in chain]:
        circle = " -> ".join(str(file) for file in (*chain, path))
        faults.append(Fault((), f"extends goes in a circle: {circle}; remove one of these lines"))
        return []
    try:
        text = path.read_bytes().decode()
        tree = tomli.loads(text)
    except FileNotFoundError:
        faults.append(Fault((), f"{by}there is no file {path}{_nearest_file(path)}"))
        return []
    except (OSError, UnicodeDecodeError, tomli.TOMLDecodeError) as error:
        line = f":{error.lineno}" if isinstance(error, tomli.TOMLDecodeError) else ""
        faults.append(Fault((), f"{by}{path}{line}: cannot be read as TOML: {error}"))
        return []
    places = {key: f"{path}:{line}" for key, line in _key_lines(text).items()}
    layer = Layer(tree, places, str(path))
    extends = tree.pop("extends", [])
    if not (isinstance(extends, list) and all(isinstance(name, str) for name in extends)):
        where = layer.place(("extends",))
        faults.append(Fault((), f'{where}: extends: expected a list of files, such as extends = ["base.toml"]'))
        return [layer]
    basis = [found for name in extends for found in read_layers(path.parent / name, faults, (*chain, path))]
    return [*basis, layer]


def _nearest_file(path: FilePath) -> str:
    if not path.parent.is_dir():
        return f"; there is no folder {path.parent} either"
    found = nearest(path.name, [file.name for file in path.parent.glob("*.toml")])
    return f"; did you mean {path.parent / found}?" if found else ""


def _key_lines(text: str) -> dict[Path, int]:
    """Line of each key and table of a valid TOML text: statements are parsed one by one, as soon as they are whole."""
    lines: dict[Path, int] = {}
    counts: dict[Path, int] = {}
    table: Path = ()
    statement, start = "", 1
    for number, line in enumerate(text.splitlines(keepends=True), 1):
        if not statement:
            start = number
        statement += line
        try:
            tree = tomli.loads(statement)
        except tomli.TOMLDecodeError:
            continue  # goes on in the next line
        for key in _paths(tree):
            if statement.lstrip().startswith("[["):
                if not isinstance(key[-1], int):
                    continue
                counts[key[:-1]] = counts.get(key[:-1], -1) + 1
                table = (*key[:-1], counts[key[:-1]])
                lines[table] = start
            elif statement.lstrip().startswith("["):
                table = key
                lines.setdefault(table, start)
            else:
                lines.setdefault((*table, *key), start)
        statement = ""
    return lines


def _paths(tree: object, prefix: Path = ()) -> list[Path]:
    items: list[tuple[str | int, Any]] = []
    if isinstance(tree, dict):
        items = list(tree.items())
    elif isinstance(tree, list):
        items = list(enumerate(tree))
    return [path for key, item in items for path in ((*prefix, key), *_paths(item, (*prefix, key)))]


def overrides_layer(overrides: Sequence[str], faults: list[Fault]) -> Layer:
    """All `--set key.path=value` as one layer; a value that is no TOML is a string."""
    layer = Layer({}, {}, "--set")
    for override in overrides:
        key, equals, text = override.partition("=")
        path = _key_path(key)
        if not equals or not path:
            faults.append(Fault((), f"--set {override}: expected key.path=value, such as --set optimizer.lr=0.05"))
            continue
        table = layer.tree
        for name in path[:-1]:
            table = table.setdefault(name, {})
            if not isinstance(table, dict):
                break
        if not isinstance(table, dict):
            faults.append(Fault((), f"--set {override}: another --set gives {key.rpartition('.')[0]} a plain value"))
            continue
        table[path[-1]] = _value(text)
        layer.places[path] = f"--set {override}"
    return layer


def _key_path(key: str) -> tuple[str, ...]:
    try:
        tree: Any = tomli.loads(f"{key} = 0") if "\n" not in key else {}
    except tomli.TOMLDecodeError:
        return ()
    path: list[str] = []
    while isinstance(tree, dict) and len(tree) == 1:
        name, tree = next(iter(tree.items()))
        path.append(name)
    return tuple(path)


def _value(text: str) -> Any:
    try:
        tree = tomli.loads(f"value = {text.strip()}")
    except tomli.TOMLDecodeError:
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
            _merge_role(merged, layer, key, value, faults) if key in CORE_KEYS else _merge(merged, (key,), value)
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
            for key in set(earlier) - CORE_KEYS[role]:
                del earlier[key]
                _forget(merged, (role, key))
                _forget(merged, (role, 0, key))
    elif role in merged.tree:
        _forget(merged, (role,))
    _merge(merged, (role,), value)


def _merge(merged: Layer, path: Path, value: Any) -> None:
    table: Any = merged.tree
    for name in path[:-1]:
        table = table[name]
    if isinstance(value, Mapping) and isinstance(table.get(path[-1]), dict):
        for key, item in value.items():
            _merge(merged, (*path, key), item)
    else:
        table[path[-1]] = _copy(value)


def _copy(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _copy(item) for key, item in value.items()}
    return [_copy(item) for item in value] if isinstance(value, list) else value


def _forget(merged: Layer, prefix: Path) -> None:
    for path in [path for path in merged.places if path[: len(prefix)] == prefix]:
        del merged.places[path]
