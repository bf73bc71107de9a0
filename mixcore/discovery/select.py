"""From the tables of a configuration to plugin instances: names looked up, classes loaded, options checked.

Nothing is raised here: every fault of every table is collected, so that the caller can report all at once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import attrs

from mixcore.config.faults import Fault, Path
from mixcore.config.schema import MixTable, PluginTable
from mixcore.config.structure import option_fields, structure
from mixcore.config.tables import CORE_KEYS, plain
from mixcore.discovery.alternatives import names_of_role
from mixcore.discovery.catalogue import Entry, find, installed
from mixcore.discovery.declared import Declared, declared
from mixcore.discovery.load import check_class, load
from mixcore.discovery.nested import held_saliencies, saliency_table, table_identity
from mixcore.errors import ConfigError, PluginError

__all__ = ["PluginTables", "Selected", "Selection", "plain_options", "select", "select_one"]

BACKBONE_OF_TIMM = "timm"
"""The builtin that takes every backbone name which no entry point has, as its option `model`."""
DEFAULTS = {"mix": "none", "labels": "weights", "loss": "soft_cross_entropy"}


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


@attrs.frozen(kw_only=True)
class PluginTables:
    """The tables to select from; an instance of a plugin class may stand for a table. What is absent has a default."""

    data: Any = None
    backbone: Any = None
    mix: Sequence[Any] = ()
    labels: Any = None
    loss: Any = None
    extra: Sequence[Any] = ()


@attrs.frozen(eq=False, kw_only=True)
class Selection:
    """The plugins of a run."""

    data: Selected | None
    backbone: Selected | None
    mix: tuple[Selected, ...]
    labels: Selected
    loss: Selected
    extra: tuple[Selected, ...]
    saliency: tuple[Selected, ...]
    """Those that options of the others hold: equal tables are one."""
    predictor: str | None
    """The predictor that the mixers suggest."""


def select(wanted: PluginTables) -> tuple[Selection | None, list[Fault]]:
    """Every plugin that the tables name, or None and every fault found."""
    claims = installed()
    faults: list[Fault] = []
    saliencies: dict[object, Selected] = {}

    def one(role: str, table: Any, path: Path) -> Selected | None:
        if table is None:
            return None
        found, own = select_one(role, table, path, claims)
        faults.extend(own)
        return None if found is None else holding(found, path)

    def holding(selected: Selected, path: Path) -> Selected:
        held = {
            key: _shared(saliencies, found)
            for key, saliency in held_saliencies(selected.plugin)
            if (found := one("saliency", saliency_table(saliency), (*path, key))) is not None
        }
        return attrs.evolve(selected, held=held) if held else selected

    def several(role: str, tables: Sequence[Any]) -> tuple[Selected, ...]:
        paths: list[Path] = [(role,) if len(tables) == 1 else (role, index) for index in range(len(tables))]
        found = [one(role, table, path) for table, path in zip(tables, paths, strict=True)]
        return tuple(selected for selected in found if selected is not None)

    data = one("data", wanted.data, ("data",))
    backbone = one("backbone", wanted.backbone, ("backbone",))
    mix = several("mix", wanted.mix or (MixTable(name=DEFAULTS["mix"]),))
    labels = one("labels", wanted.labels or _default_table("labels", mix, faults), ("labels",))
    loss = one("loss", wanted.loss or _default_table("loss", mix, faults), ("loss",))
    extra = several("extra", wanted.extra)
    predictor = _suggested("predictor", mix, faults)
    if faults or labels is None or loss is None:
        return None, faults
    selection = Selection(
        data=data,
        backbone=backbone,
        mix=mix,
        labels=labels,
        loss=loss,
        extra=extra,
        saliency=tuple(saliencies.values()),
        predictor=predictor,
    )
    return selection, []


def _shared(known: dict[object, Selected], found: Selected) -> Selected:
    """The saliency that was found first among equal ones."""
    if not found.distribution:  # given as an instance, which is itself alone
        return known.setdefault(id(found.plugin), found)
    try:
        return known.setdefault(table_identity(found.table.name, found.complete_options()), found)
    except ConfigError:  # a value that only Python can give, such as a network
        return known.setdefault(id(found.plugin), found)


def _default_table(role: str, mixers: Sequence[Selected], faults: list[Fault]) -> PluginTable:
    return PluginTable(name=_suggested(role, mixers, faults) or DEFAULTS[role])


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
    table = (MixTable if role == "mix" else PluginTable)(name=label.lower())
    return Selected(role, table, plugin, label, declared(plugin, label))


def _check_role(role: str, cls: type[Any], label: str) -> None:
    """A table takes only a class of its own role, [[extra]] only one without."""
    own = getattr(cls, "role", None)
    if own == (None if role == "extra" else role):
        return
    belongs = f"[{own}]" if own else "[[extra]]"
    if own == "saliency":
        belongs = "an option that holds a saliency, such as [mix] saliency"
    expected = "no role" if role == "extra" else f"role {role}"
    raise ConfigError(
        f"{label} has {f'role {own}' if own else 'no role'}, expected a plugin with {expected}; it belongs in {belongs}"
    )
