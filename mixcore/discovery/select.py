"""From the tables of a configuration to plugin instances: names looked up, classes loaded, options checked.

Nothing is raised here: every fault of every table is collected, so that the caller can report all at once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import attrs

from mixcore.config.faults import Fault, Path
from mixcore.config.schema import PluginTable, table_class
from mixcore.config.structure import option_fields, structure
from mixcore.config.tables import CORE_KEYS, plain
from mixcore.discovery.alternatives import names_of_role
from mixcore.discovery.catalogue import Entry, find, installed
from mixcore.discovery.declared import Declared, declared
from mixcore.discovery.load import check_class, load
from mixcore.errors import ConfigError, PluginError
from mixcore.hooks.roles import EXTRA, ROLES, SUGGESTED_ROLES, TABLE_ROLES, role_of

__all__ = ["Selected", "Selection", "plain_options", "select"]

BACKBONE_OF_TIMM = "timm"
"""The builtin that takes every backbone name which no entry point has, as its option `model`."""


@attrs.frozen(eq=False)
class Selected:
    """One plugin of a run: the instance, and where it came from."""

    role: str
    """The table it stands in: a role, or "extra"."""
    table: PluginTable
    plugin: Any
    label: str
    """What messages call it: `cutmix (mixcore-plugin-cutmix 0.1.0)`."""
    declared: Declared
    distribution: str = ""
    version: str = ""

    def complete_table(self) -> PluginTable:
        """The table with the value of every option, defaults too; ConfigError for one that TOML cannot hold."""
        return attrs.evolve(self.table, options=plain_options(self.plugin))


def plain_options(plugin: Any) -> dict[str, Any]:
    """The value of every option of a plugin in TOML's own types; ConfigError names one that TOML cannot hold."""
    options = {}
    for key, field in option_fields(type(plugin)).items():
        value = getattr(plugin, field.name)
        if value is None:
            continue
        try:
            options[key] = plain(value)
        except ConfigError as error:
            raise ConfigError(f"its option {key}: {error}") from error
    return options


@attrs.frozen(eq=False, kw_only=True)
class Selection:
    """The plugins of a run. Its instances are for one run: what is registered is what was selected."""

    of: Mapping[str, tuple[Selected, ...]]
    """Role -> its plugins, in the order of the table of roles; empty where a foreign loop needs none."""
    predictor: str | None
    """The predictor that the mixers suggest."""

    def everyone(self) -> tuple[Selected, ...]:
        """All of them, role by role."""
        return tuple(selected for group in self.of.values() for selected in group)


def select(tables: Mapping[str, Sequence[Any]]) -> tuple[Selection | None, list[Fault]]:
    """Every plugin that the tables name, or None and every fault found.

    `tables` has those of each role; an instance of a plugin class may stand for a table. A role that is absent or empty
    gets what the mixers suggest, or its default.
    """
    claims = installed()
    faults: list[Fault] = []
    found: dict[str, tuple[Selected, ...]] = {}
    for name in TABLE_ROLES:  # mixers come before the roles that they suggest plugins for
        given = tables.get(name) or _default_tables(name, found.get("mix", ()), faults)
        found[name] = _select_role(name, given, claims, faults)
    predictor = _suggested("predictor", found["mix"], faults)
    return (None, faults) if faults else (Selection(of=found, predictor=predictor), [])


def _select_role(
    role: str, tables: Sequence[Any], claims: Mapping[str, list[Entry]], faults: list[Fault]
) -> tuple[Selected, ...]:
    chosen = []
    for index, table in enumerate(tables):
        selected, own = _select_one(role, table, (role,) if len(tables) == 1 else (role, index), claims)
        faults.extend(own)
        if selected is not None:
            chosen.append(selected)
    return tuple(chosen)


def _default_tables(role: str, mixers: Sequence[Selected], faults: list[Fault]) -> tuple[PluginTable, ...]:
    suggested = _suggested(role, mixers, faults) if role in SUGGESTED_ROLES else None
    name = suggested or ROLES[role].default
    return () if name is None else (table_class(role)(name=name),)


def _suggested(what: str, mixers: Sequence[Selected], faults: list[Fault]) -> str | None:
    """What the mixers suggest for a role or the predictor; a fault where they disagree."""
    suggestions = {
        mixer.declared.suggests[what]: mixer.table.name for mixer in mixers if what in mixer.declared.suggests
    }
    if len(suggestions) > 1:
        told = ", ".join(f'{mixer} suggests "{name}"' for name, mixer in suggestions.items())
        path: Path = ("eval", "predictor") if what == "predictor" else (what,)
        key = "eval.predictor" if what == "predictor" else f"{what}.name"
        faults.append(
            Fault(path, f'the mixers disagree: {told}; name one, such as {key} = "{next(iter(suggestions))}"')
        )
    return next(iter(suggestions), None)


def _select_one(
    role: str, table: Any, path: Path, claims: Mapping[str, list[Entry]]
) -> tuple[Selected | None, list[Fault]]:
    try:
        if not isinstance(table, PluginTable):
            return _given_instance(role, table), []
        if role == "backbone" and table.name not in claims:
            table = _timm_table(table)
        entry = find(table.name, claims, partial(names_of_role, role))
        cls = load(entry)
        _check_role(role, cls, entry.label)
    except ConfigError as error:
        return None, [Fault((*path, "name"), str(error))]
    except PluginError as error:
        return None, [Fault((*path, "name"), str(error), error)]
    plugin, faults = structure(cls, table.options, path, table.name, CORE_KEYS[role])
    if plugin is None:
        return None, faults
    try:
        declarations = declared(plugin, entry.label)
    except PluginError as error:
        return None, [Fault(path, str(error), error)]
    return Selected(role, table, plugin, entry.label, declarations, entry.distribution, entry.version), []


def _timm_table(table: PluginTable) -> PluginTable:
    if "model" in table.options:
        raise ConfigError(
            f'"{table.name}" is no plugin, so it is taken as the name of a timm model, and "model" names another; '
            "remove one of them"
        )
    return attrs.evolve(table, name=BACKBONE_OF_TIMM, options={"model": table.name, **table.options})


def _given_instance(role: str, plugin: Any) -> Selected:
    label = type(plugin).__name__
    check_class(type(plugin), label)
    _check_role(role, type(plugin), label)
    return Selected(role, table_class(role)(name=label.lower()), plugin, label, declared(plugin, label))


def _check_role(role: str, cls: type[Any], label: str) -> None:
    """A table takes only a class of its own role, [[extra]] only one without."""
    own = role_of(cls)
    if own == role:
        return
    belongs = f"in {'[[extra]]' if own == EXTRA else f'[{own}]'}" if ROLES[own].table else "in another plugin's option"
    raise ConfigError(f"{label} has {_role(own)}, expected a plugin with {_role(role)}; it belongs {belongs}")


def _role(name: str) -> str:
    return "no role" if name == EXTRA else f"role {name}"
