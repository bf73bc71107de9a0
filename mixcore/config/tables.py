"""Between the tree of a TOML file and RunConfig, both ways; the tables are read here, plugins' own keys are not."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from enum import Enum
from pathlib import PurePath
from typing import Any, TypeVar

import attrs

from mixcore.config.faults import Fault, Path, dotted, raise_faults
from mixcore.config.schema import MixTable, PluginTable, RunConfig, table_class
from mixcore.config.structure import structure
from mixcore.errors import ConfigError
from mixcore.hooks.roles import ROLES, TABLE_ROLES
from mixcore.options import Saliency
from mixcore.words import cut, suggestion

__all__ = [
    "CORE_KEYS",
    "ReadTree",
    "config_from_tree",
    "config_to_tree",
    "plain",
    "plugin_table",
    "probability_faults",
    "read_tree",
]

Table = TypeVar("Table", bound=PluginTable)


def _core_keys(cls: type[PluginTable]) -> frozenset[str]:
    return frozenset(field.name for field in attrs.fields(cls)) - {"options", "path"}


CORE_KEYS = {role: _core_keys(table_class(role)) for role in ROLES}
"""Keys of each role's table that belong to the core: no plugin has an option of such a name."""


@attrs.define
class ReadTree:
    """What could be read of a tree, and the faults of the rest."""

    values: dict[str, Any] = attrs.field(factory=dict)
    """Fields of RunConfig that have no fault."""
    faults: list[Fault] = attrs.field(factory=list)


def plugin_table(cls: type[Table], table: object, path: Path) -> tuple[Table | None, list[Fault]]:
    """One plugin table from its TOML form: the core's keys checked, the plugin's kept as options."""
    if not isinstance(table, Mapping):
        return None, [Fault(path, f'expected a table with a name, such as [{path[0]}] and name = "..." below it')]
    if "name" not in table:
        return None, [Fault((*path, "name"), "missing: it says which plugin; mixcore plugins lists those installed")]
    core = _core_keys(cls)
    own = {key: value for key, value in table.items() if key in core}
    options = {key: value for key, value in table.items() if key not in core}
    return structure(cls, {**own, "options": options, "path": dotted(path)}, path)


def read_tree(tree: Mapping[str, Any]) -> ReadTree:
    """Read every table of the tree, and collect the faults of those that cannot be read."""
    read = ReadTree()
    known = [field.name for field in attrs.fields(RunConfig)]
    for key, value in tree.items():
        if key in TABLE_ROLES:
            read_role = _table_list if TABLE_ROLES[key].several else _single_table
            read.values[key], faults = read_role(value, key)
        elif key in known:
            read.values[key], faults = _plain_table(key, value)
        else:
            faults = [Fault((key,), f"unknown key: a configuration has {', '.join(known)}{suggestion(key, known)}")]
        if faults:
            read.values.pop(key, None)
        read.faults += faults
    for key, role in TABLE_ROLES.items():
        if role.example and key not in tree:
            read.faults.append(
                Fault((), f'[{key}] is missing: name one, such as [{key}] and name = "{role.example}" below it')
            )
    return read


def _plain_table(key: str, value: object) -> tuple[Any, list[Fault]]:
    """A table of the core, or the seed."""
    field = attrs.fields_dict(RunConfig)[key]
    if key == "seed":
        seed, faults = structure(_Seed, {"seed": value})
        return (None if seed is None else seed.seed), faults
    if not isinstance(value, Mapping):
        return None, [Fault((key,), f"expected a table: write [{key}] with its keys below it")]
    cls: type[Any] = field.default.factory  # type: ignore[union-attr]
    return structure(cls, value, (key,))


@attrs.frozen(kw_only=True)
class _Seed:
    """The one key above all tables, so that it is checked as tables are."""

    seed: int = attrs.field(validator=attrs.fields(RunConfig).seed.validator)


def _single_table(value: object, key: str) -> tuple[PluginTable | None, list[Fault]]:
    return plugin_table(table_class(key), value, (key,))


def _table_list(value: object, key: str) -> tuple[tuple[PluginTable, ...], list[Fault]]:
    tables = [value] if isinstance(value, Mapping) else value
    if not isinstance(tables, list | tuple):
        return (), [Fault((key,), f"expected tables: write [[{key}]] with a name below it")]
    read, faults = [], []
    for index, item in enumerate(tables):
        table, own = plugin_table(table_class(key), item, (key,) if len(tables) == 1 else (key, index))
        faults += own
        if table is not None:
            read.append(table)
    if key == "mix" and not faults:
        faults += probability_faults([table for table in read if isinstance(table, MixTable)])
    return tuple(read), faults


def probability_faults(mixers: Sequence[MixTable]) -> list[Fault]:
    """What is wrong with the probabilities of tables that take turns, taken together."""
    given = [mixer.probability for mixer in mixers if mixer.probability is not None]
    total = math.fsum(given)
    if total > 1 + 1e-9:
        return [Fault(("mix",), f"the probabilities sum to {total:g}, expected at most 1")]
    if len(given) < len(mixers) and total > 1 - 1e-9:
        return [Fault(("mix",), "the probabilities given sum to 1 and leave nothing to the tables without one")]
    return []


def config_from_tree(tree: Mapping[str, Any], source: str = "") -> RunConfig:
    """The configuration that a tree of tables says, plugins' own keys kept as they are.

    Raises ConfigError listing every fault; `source` is what its message calls the tree.
    """
    read = read_tree(tree)
    if read.faults:
        raise_faults(read.faults, source, lambda _path: source)
    return RunConfig(**read.values)


def config_to_tree(config: RunConfig) -> dict[str, Any]:
    """The plain tree of a configuration, which reads back as the same; keys that are absent are left out."""
    tree: dict[str, Any] = {}
    for field in attrs.fields(RunConfig):
        value = getattr(config, field.name)
        if isinstance(value, PluginTable):
            tree[field.name] = _table_tree(value)
        elif field.name in TABLE_ROLES:
            if value:
                tree[field.name] = [_table_tree(table) for table in value]
        elif value is not None:
            tree[field.name] = plain(value)
    return tree


def _table_tree(table: PluginTable) -> dict[str, Any]:
    own = {key: value for key, value in plain(table).items() if key not in ("options", "path")}
    return own | plain(table.options)


def plain(value: Any) -> Any:
    """The value in TOML's own types: tables without their absent keys, lists, and scalars.

    Raises ConfigError for a value that TOML cannot hold.
    """
    if isinstance(value, Saliency):
        value = {"name": value.name, **value.options}
    elif attrs.has(type(value)):
        fields = [field for field in attrs.fields(type(value)) if field.init]
        value = {field.alias or field.name: getattr(value, field.name) for field in fields}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items() if item is not None}
    if isinstance(value, set | frozenset):
        return _ordered([plain(item) for item in value])
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, Enum):
        return plain(value.value)
    if isinstance(value, PurePath):
        return str(value)
    if isinstance(value, bool | int | float | str):
        return value
    raise ConfigError(f"a {type(value).__name__} cannot be written as TOML: {cut(repr(value))}")


def _ordered(items: list[Any]) -> list[Any]:
    """The items of a set in an order that does not change."""
    try:
        return sorted(items)
    except TypeError:
        raise ConfigError(f"a set of values of several types cannot be written as TOML: {items!r}") from None
