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
from mixcore.discovery.catalogue import find, installed
from mixcore.discovery.declared import Declared, declared
from mixcore.discovery.load import check_class, load
from mixcore.discovery.nested import held_saliencies, saliency_table, table_identity
from mixcore.entry_points import Entry
from mixcore.errors import ConfigError, PluginError
from mixcore.hooks.roles import EXTRA, ROLES, SUGGESTED_ROLES, TABLE_ROLES, role_of, where_it_stands

__all__ = ["Selected", "Selection", "plain_options", "select", "select_one"]

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
    held: Mapping[str, Selected] = attrs.field(factory=dict)
    """The saliencies that its options hold, by the key of the option."""

    def complete_table(self) -> PluginTable:
        """The table with the value of every option, defaults too; ConfigError for one that TOML cannot hold."""
        return attrs.evolve(self.table, options=self.complete_options())

    def complete_options(self) -> dict[str, Any]:
        """The value of every option in TOML's own types, those of the saliencies that it holds too; ConfigError."""
        inside = {key: {"name": one.table.name, **one.complete_options()} for key, one in self.held.items()}
        return plain_options(self.plugin) | inside


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
    """Role -> its plugins, in the order of the table of roles; empty where a foreign loop needs none.

    The saliencies that options of the others hold come last; equal tables are one.
    """
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
    selecting = _Selecting(claims=claims, faults=faults)
    found: dict[str, tuple[Selected, ...]] = {}
    for name in TABLE_ROLES:  # mixers come before the roles that they suggest plugins for
        given = tables.get(name) or _default_tables(name, found.get("mix", ()), faults)
        found[name] = selecting.all_of(name, given)
    predictor = _suggested("predictor", found["mix"], faults)
    if faults:
        return None, faults
    return Selection(of={**found, "saliency": tuple(selecting.saliencies.values())}, predictor=predictor), []


@attrs.define
class _Selecting:
    """What one selection has found so far."""

    claims: Mapping[str, list[Entry]]
    faults: list[Fault]
    saliencies: dict[object, Selected] = attrs.field(factory=dict)
    """Those that options hold, by what makes two of them one."""

    def all_of(self, role: str, tables: Sequence[Any]) -> tuple[Selected, ...]:
        """The plugins of a role that can be had, with what they hold; the rest is among the faults."""
        paths: list[Path] = [(role,) if len(tables) == 1 else (role, index) for index in range(len(tables))]
        found = [self._one(role, table, path) for table, path in zip(tables, paths, strict=True)]
        return tuple(selected for selected in found if selected is not None)

    def _one(self, role: str, table: Any, path: Path) -> Selected | None:
        found, own = select_one(role, table, path, self.claims)
        self.faults.extend(own)
        return None if found is None else self._holding(found, path)

    def _holding(self, selected: Selected, path: Path) -> Selected:
        held = {
            key: self._shared(found)
            for key, saliency in held_saliencies(selected.plugin)
            if (found := self._one("saliency", saliency_table(saliency), (*path, key))) is not None
        }
        return attrs.evolve(selected, held=held) if held else selected

    def _shared(self, found: Selected) -> Selected:
        """The saliency that was found first among equal ones."""
        if not found.distribution:  # given as an instance, which is itself alone
            return self.saliencies.setdefault(id(found.plugin), found)
        try:
            return self.saliencies.setdefault(table_identity(found.table.name, found.complete_options()), found)
        except ConfigError:  # a value that only Python can give, such as a network
            return self.saliencies.setdefault(id(found.plugin), found)


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


def select_one(
    role: str, table: Any, path: Path, claims: Mapping[str, list[Entry]]
) -> tuple[Selected | None, list[Fault]]:
    """The plugin of one table, or of an instance in its place, without the saliencies that it holds; or its faults."""
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
    raise ConfigError(
        f"{label} has {_role(own)}, expected a plugin with {_role(role)}; it belongs {where_it_stands(own)}"
    )


def _role(name: str) -> str:
    return "no role" if name == EXTRA else f"role {name}"
