"""From a file and `--set` to a checked configuration, its resolved text and its digest."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path as FilePath
from typing import Any

import attrs
import tomli_w

from mixcore.config.faults import Fault, Path, raise_faults
from mixcore.config.layers import Layer, merge_layers, overrides_layer, read_layers
from mixcore.config.run_dir import default_dir
from mixcore.config.schema import RunConfig
from mixcore.config.structure import option_fields
from mixcore.config.tables import config_to_tree, read_tree
from mixcore.discovery.select import Selected, Selection, select
from mixcore.errors import ConfigError
from mixcore.hooks.roles import ROLES, TABLE_ROLES
from mixcore.options import is_place

__all__ = ["Loaded", "determining", "digest_of", "load_config", "load_layers", "read_config"]

_SINCE: Mapping[Path, object] = {
    ("train", "matmul"): "highest",
    ("train", "benchmark"): False,
    ("train", "deterministic"): False,
}
"""Keys that came after the first runs, each with the value at which a run is the one that it was without the key."""
_COMFORT: frozenset[Path] = frozenset({("run",), ("data", "workers"), ("train", "log_every"), ("eval", "batch_size")})
"""Keys of the core that change no number: where and on what a run happens, and how often it says something."""


@attrs.frozen(kw_only=True)
class Loaded:
    """A checked configuration with nothing left to defaults: it says the same when the defaults change."""

    config: RunConfig
    selection: Selection = attrs.field(eq=False, repr=False)
    """The plugins that `config` names: these instances are the run's, which registers them."""
    resolved: dict[str, Any]
    """The plain TOML tree of `config`; it reads back as the same configuration."""
    text: str
    """`resolved` as TOML text."""
    places: frozenset[Path]
    """Keys of plugins' options that say where things lie and determine no number, such as ("data", "root")."""
    digest: str
    """Hash of everything in it that determines the run's numbers."""
    experiment: str
    """The same hash without the seed: runs that repeat each other have it in common."""


def load_config(path: FilePath | str, overrides: Sequence[str] = ()) -> Loaded:
    """Read `path` with all that it extends, put `overrides` (`key.path=value`) on top, and check everything.

    Raises ConfigError with every fault at once, those of plugins' options among them; or, where it is the only fault,
    the PluginError that a plugin of the configuration causes.
    """
    return load_layers(read_config(path, overrides), FilePath(path))


def load_layers(layers: Sequence[Layer], path: FilePath) -> Loaded:
    """The configuration that the layers give, the last one on top; `path` is the file that they are called by.

    Raises as :func:`load_config` does.
    """
    faults: list[Fault] = []
    merged = merge_layers(layers, faults, str(path))
    read = read_tree(merged.tree)
    faults += read.faults
    selection, plugin_faults = select(_several(read.values))
    faults += _unless_unread(plugin_faults, merged, read.values)
    if faults or selection is None:
        raise_faults(faults, str(path), merged.place)
    return _resolve(
        RunConfig(**read.values), selection, default_dir(path.stem, _without(layers[-1].tree, (), _COMFORT))
    )


def read_config(path: FilePath | str, overrides: Sequence[str] = ()) -> list[Layer]:
    """The layers of a configuration, `overrides` (`key.path=value`) the last; no plugin is imported.

    Raises ConfigError where a file is missing or is no TOML that can be used, or an override has no meaning.
    """
    faults: list[Fault] = []
    layers = [*read_layers(FilePath(path), faults), overrides_layer(overrides, faults)]
    if faults:
        raise_faults(faults, str(path))
    return layers


def _several(values: Mapping[str, Any]) -> dict[str, Sequence[Any]]:
    """The tables of each role that could be read."""
    return {key: value if ROLES[key].several else (value,) for key, value in values.items() if key in ROLES}


def _unless_unread(faults: Sequence[Fault], merged: Layer, values: Mapping[str, Any]) -> list[Fault]:
    """Without faults of the defaults that stood in for tables which could not be read."""
    return [fault for fault in faults if fault.path[0] in values or fault.path[0] not in merged.tree]


def _resolve(config: RunConfig, selection: Selection, run_dir: str) -> Loaded:
    faults: list[Fault] = []

    def complete(selected: Selected) -> Any:
        try:
            return selected.complete_table()
        except ConfigError as error:
            faults.append(Fault((selected.role,), f"{selected.label}: {error}"))
            return None

    completed = {role: tuple(map(complete, group)) for role, group in selection.of.items() if role in TABLE_ROLES}
    tables: dict[str, Any] = {role: group if ROLES[role].several else group[0] for role, group in completed.items()}
    if faults:
        raise_faults(faults, "the configuration")
    config = attrs.evolve(
        config,
        eval=attrs.evolve(config.eval, predictor=config.eval.predictor or selection.predictor or "model"),
        run=attrs.evolve(config.run, dir=config.run.dir or run_dir),
        **tables,
    )
    resolved = config_to_tree(config)
    places = frozenset(place for path, selected in _with_paths(selection) for place in _places(selected.plugin, path))
    return Loaded(
        config=config,
        selection=selection,
        resolved=resolved,
        text=tomli_w.dumps(resolved),
        places=places,
        digest=digest_of(determining(resolved, places)),
        experiment=digest_of(determining(resolved, places | {("seed",)})),
    )


def _with_paths(selection: Selection) -> Iterator[tuple[Path, Selected]]:
    """The plugins of the run, each with the path of its table in the resolved tree."""
    for role in TABLE_ROLES:
        for index, selected in enumerate(selection.of[role]):
            yield from _with_held((role, index) if ROLES[role].several else (role,), selected)


def _with_held(path: Path, selected: Selected) -> Iterator[tuple[Path, Selected]]:
    """A plugin and the saliencies that its options hold, theirs too."""
    yield path, selected
    for key, inside in selected.held.items():
        yield from _with_held((*path, key), inside)


def _places(table: Any, path: Path) -> Iterator[Path]:
    """The options of a plugin that are marked as places, in tables inside its options too."""
    for key, field in option_fields(type(table)).items():
        value = getattr(table, field.name)
        if is_place(field):
            yield (*path, key)
        elif attrs.has(type(value)):
            yield from _places(value, (*path, key))


def determining(resolved: Mapping[str, Any], places: Collection[Path] = ()) -> dict[str, Any]:
    """The part of a resolved tree that the run's numbers depend on: without the core's comfort and without `places`.

    Left out of the core are [run], data.workers, train.log_every and eval.batch_size, and keys of `_SINCE` that change
    nothing.
    """
    usual = {path for path, value in _SINCE.items() if _at(resolved, path) == value}
    return _without(resolved, (), _COMFORT.union(places, usual))


def _at(tree: Any, path: Path) -> Any:
    """What stands at the path, None where nothing does."""
    for key in path:
        tree = tree.get(key) if isinstance(tree, Mapping) else None
    return tree


def _without(value: Any, path: Path, left_out: Collection[Path]) -> Any:
    if isinstance(value, Mapping):
        return {
            key: _without(item, (*path, key), left_out) for key, item in value.items() if (*path, key) not in left_out
        }
    if isinstance(value, list):
        return [_without(item, (*path, index), left_out) for index, item in enumerate(value)]
    return value


def digest_of(tree: Mapping[str, Any]) -> str:
    """Hash of a plain tree, whatever the order of its keys."""
    text = json.dumps(tree, sort_keys=True, separators=(",", ":"))
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
