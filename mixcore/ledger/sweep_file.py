"""A sweep file: a base configuration, and what varies."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs

from mixcore.config.faults import Fault, raise_faults
from mixcore.config.layers import Layer, Setting, key_path, merge_layers, read_layers
from mixcore.config.schema import PluginTable
from mixcore.config.structure import structure
from mixcore.config.tables import plugin_table, read_tree
from mixcore.errors import ConfigError
from mixcore.hooks.roles import ROLES
from mixcore.ledger.named import named_experiment, names_file

__all__ = ["ALL", "MIXER", "SweepFile", "read_sweep"]

MIXER = "mix.name"
"""The key whose values may be `ALL`."""
ALL = "all"
"""Stands for every installed mixer that fits."""
_OWN = {"seed": 'the key "seeds" of the sweep file', "run.dir": 'the key "dir" of the sweep file'}
"""Keys of a configuration that the sweep itself sets, and what does it."""


@attrs.frozen(kw_only=True)
class _Tables:
    """The keys of a sweep file."""

    base: str
    """What all runs start from: a configuration, relative to the sweep file, or the name of an experiment."""
    dir: str | None = None
    """Folder of the run folders, from the working directory; absent: runs/<name of the sweep file>."""
    seeds: tuple[int, ...] = (0,)
    """Seeds that every setting is run with."""
    grid: Mapping[str, Any] = attrs.field(factory=dict)
    """Keys of the configuration, each with a list of values: every combination is a setting."""
    set: Mapping[str, Any] = attrs.field(factory=dict)
    """Keys of the configuration that all runs have in common."""
    launcher: Mapping[str, Any] | None = None
    """Launcher and its options; absent: name = "local"."""


@attrs.frozen(kw_only=True)
class SweepFile:
    """A sweep file that was read; whether its settings are configurations is not known yet."""

    path: Path
    dir: Path
    base: Path
    """File of the configuration that all runs start from, or the experiment's whole name."""
    layers: tuple[Layer, ...]
    """Of the base configuration."""
    seeds: tuple[int, ...]
    grid: Mapping[str, tuple[Any, ...]]
    """Key -> its values, in the order of the file; `ALL` among those of `MIXER` stands for many."""
    common: tuple[Setting, ...]
    """What [set] gives."""
    launcher: PluginTable
    layer: Layer
    """The sweep file itself, which knows where each key stands."""

    def setting(self, key: str, value: Any) -> Setting:
        """A value of the grid, with its place."""
        return Setting(key, value, _place(self.layer, "grid", key))


def read_sweep(path: Path) -> SweepFile:
    """Read a sweep file and the layers of its base. Raises ConfigError with every fault that can be told from these."""
    faults: list[Fault] = []
    layers = read_layers(path, faults)
    if faults:
        raise_faults(faults, str(path))
    merged = merge_layers(layers, faults, str(path))
    tables, own = structure(_Tables, merged.tree, (), "a sweep file")
    faults += own
    if tables is None:
        raise_faults(faults, str(path), merged.place)
    unreadable: list[Fault] = []
    base, base_layers = _base(tables.base, path.parent, unreadable)
    grid, common = _grid(tables.grid, faults), _common(tables.set, merged)
    faults += _seed_faults(tables.seeds)
    faults += _key_faults(grid, common)
    faults += [attrs.evolve(fault, path=("base",)) for fault in unreadable]
    if unreadable:  # else the keys are looked at in the configurations that they give
        faults += _faults_without_base(grid, common)
    launcher, own = _launcher(tables.launcher)
    faults += own
    if faults or launcher is None:
        raise_faults(faults, str(path), merged.place)
    return SweepFile(
        path=path,
        dir=Path(tables.dir or f"runs/{path.stem}"),
        base=base,
        layers=tuple(base_layers),
        seeds=tables.seeds,
        grid=grid,
        common=common,
        launcher=launcher,
        layer=merged,
    )


def _base(name: str, folder: Path, faults: list[Fault]) -> tuple[Path, Sequence[Layer]]:
    """What messages call the base, and its layers."""
    if names_file(name, folder):
        return folder / name, read_layers(folder / name, faults)
    try:
        found = named_experiment(name)
    except ConfigError as error:
        faults.append(Fault((), str(error)))
        return Path(name), ()
    return Path(found.id), found.layers


def _launcher(table: Mapping[str, Any] | None) -> tuple[PluginTable | None, list[Fault]]:
    if table is None:
        return PluginTable(name=ROLES["launcher"].default or "", path="launcher"), []
    return plugin_table(PluginTable, table, ("launcher",))


def _flat(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted key and value; `"mix.name" = 1` and `mix.name = 1` are the same."""
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _grid(tree: Mapping[str, Any], faults: list[Fault]) -> dict[str, tuple[Any, ...]]:
    grid = {}
    for key, value in _flat(tree):
        values = [ALL] if (key, value) == (MIXER, ALL) else value
        if not isinstance(values, list) or not values:
            faults.append(
                Fault(("grid", key), f"expected a list of values, such as [1, 2]{_all_hint(key)}, found {value!r}")
            )
            continue
        twice = [value for index, value in enumerate(values) if value in values[:index]]
        if twice:
            faults.append(Fault(("grid", key), f"{twice[0]!r} is listed twice; each setting is run once per seed"))
        grid[key] = tuple(values)
    return grid


def _all_hint(key: str) -> str:
    return f' or "{ALL}"' if key == MIXER else ""


def _common(tree: Mapping[str, Any], layer: Layer) -> tuple[Setting, ...]:
    return tuple(Setting(key, value, _place(layer, "set", key)) for key, value in _flat(tree))


def _place(layer: Layer, table: str, key: str) -> str:
    """File and line of a key of [grid] or [set], whether it is quoted there or a table of its own."""
    inside = (table, *key_path(key))
    return layer.places.get(inside) or layer.place((table, key))


def _seed_faults(seeds: tuple[int, ...]) -> list[Fault]:
    if not seeds:
        return [Fault(("seeds",), "expected at least one seed, such as seeds = [0, 1, 2]")]
    twice = sorted({seed for seed in seeds if seeds.count(seed) > 1})
    return [Fault(("seeds",), f"{', '.join(map(str, twice))} is listed twice")] if twice else []


def _key_faults(grid: Mapping[str, Any], common: tuple[Setting, ...]) -> list[Fault]:
    faults = []
    given = {"grid": tuple(grid), "set": tuple(setting.key for setting in common)}
    for table, keys in given.items():
        for key in keys:
            if key in _OWN:
                faults.append(Fault((table, key), f"{_OWN[key]} says this; remove it here"))
            elif not key_path(key):
                faults.append(Fault((table, key), 'expected a key of the configuration, such as "mix.alpha"'))
    both = [key for key in given["set"] if key in given["grid"]]
    return [*faults, *(Fault(("set", key), "[grid] varies it; remove it here or there") for key in both)]


def _faults_without_base(grid: Mapping[str, tuple[Any, ...]], common: tuple[Setting, ...]) -> list[Fault]:
    """What is wrong with keys whatever the base says: the tables that they stand in, and the core's own keys."""
    faults = []
    keys = [("grid", key, values[0]) for key, values in grid.items()]
    for table, key, value in [*keys, *(("set", setting.key, setting.value) for setting in common)]:
        tree: Any = value
        for name in reversed(key_path(key)):
            tree = {name: tree}
        for fault in read_tree(tree).faults:
            if fault.path and not fault.message.startswith("missing"):
                faults.append(attrs.evolve(fault, path=(table, key)))
    return faults
