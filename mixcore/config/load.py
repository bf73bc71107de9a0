"""From a file and `--set` to a checked configuration, its resolved text and its digest."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path as FilePath
from typing import Any

import attrs
import tomli_w

from mixcore.config.faults import Fault, raise_faults
from mixcore.config.layers import Layer, merge_layers, overrides_layer, read_layers
from mixcore.config.run_dir import default_dir
from mixcore.config.schema import RunConfig
from mixcore.config.tables import config_to_tree, read_tree
from mixcore.discovery.select import Selected, Selection, Wanted, select
from mixcore.errors import ConfigError

__all__ = ["Loaded", "determining", "digest_of", "load_config", "read_config"]

_PLUGIN_TABLES = tuple(field.name for field in attrs.fields(Wanted))


@attrs.frozen(kw_only=True)
class Loaded:
    """A checked configuration with nothing left to defaults: it says the same when the defaults change."""

    config: RunConfig
    resolved: dict[str, Any]
    """The plain TOML tree of `config`; it reads back as the same configuration."""
    text: str
    """`resolved` as TOML text."""
    digest: str
    """Hash of everything that determines the run's numbers."""


def load_config(path: FilePath | str, overrides: Sequence[str] = ()) -> Loaded:
    """Read `path` with all that it extends, put `overrides` (`key.path=value`) on top, and check everything.

    Raises ConfigError with every fault at once, those of plugins' options among them; or, where it is the only fault,
    the PluginError that a plugin of the configuration causes.
    """
    path = FilePath(path)
    faults: list[Fault] = []
    layers = read_config(path, overrides)
    merged = merge_layers(layers, faults, str(path))
    read = read_tree(merged.tree)
    faults += read.faults
    selection, plugin_faults = select(_wanted(read.values))
    faults += _unless_unread(plugin_faults, merged, read.values)
    if faults or selection is None:
        raise_faults(faults, str(path), merged.place)
    return _resolve(RunConfig(**read.values), selection, default_dir(path.stem, determining(layers[-1].tree)))


def read_config(path: FilePath | str, overrides: Sequence[str] = ()) -> list[Layer]:
    """The layers of a configuration, `overrides` (`key.path=value`) the last; no plugin is imported.

    Raises ConfigError where a file is missing or is no TOML that can be used, or an override has no meaning.
    """
    faults: list[Fault] = []
    layers = [*read_layers(FilePath(path), faults), overrides_layer(overrides, faults)]
    if faults:
        raise_faults(faults, str(path))
    return layers


def _wanted(values: Mapping[str, Any]) -> Wanted:
    return Wanted(**{key: values[key] for key in _PLUGIN_TABLES if key in values})


def _unless_unread(faults: Sequence[Fault], merged: Layer, values: Mapping[str, Any]) -> list[Fault]:
    """Without faults of the defaults that stood in for tables which could not be read."""
    return [fault for fault in faults if fault.path[0] in values or fault.path[0] not in merged.tree]


def _resolve(config: RunConfig, selection: Selection, run_dir: str) -> Loaded:
    faults: list[Fault] = []

    def complete(selected: Selected | None) -> Any:
        assert selected is not None
        try:
            return selected.complete_table()
        except ConfigError as error:
            faults.append(Fault((selected.role,), f"{selected.label}: {error}"))
            return None

    tables: dict[str, Any] = {
        "data": complete(selection.data),
        "backbone": complete(selection.backbone),
        "mix": tuple(map(complete, selection.mix)),
        "labels": complete(selection.labels),
        "loss": complete(selection.loss),
        "extra": tuple(map(complete, selection.extra)),
    }
    if faults:
        raise_faults(faults, "the configuration")
    config = attrs.evolve(
        config,
        eval=attrs.evolve(config.eval, predictor=config.eval.predictor or selection.predictor or "model"),
        run=attrs.evolve(config.run, dir=config.run.dir or run_dir),
        **tables,
    )
    resolved = config_to_tree(config)
    return Loaded(config=config, resolved=resolved, text=tomli_w.dumps(resolved), digest=digest_of(resolved))


def determining(resolved: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a resolved tree that the run's numbers depend on: all but [run] and the number of data workers."""
    tree = {key: value for key, value in resolved.items() if key != "run"}
    if isinstance(tree.get("data"), Mapping):
        tree["data"] = {key: value for key, value in tree["data"].items() if key != "workers"}
    return tree


def digest_of(resolved: Mapping[str, Any]) -> str:
    """Hash of what :func:`determining` leaves of a resolved tree."""
    text = json.dumps(determining(resolved), sort_keys=True, separators=(",", ":"))
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
