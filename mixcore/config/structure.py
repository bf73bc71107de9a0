"""From plain TOML values to attrs instances: strict, and all faults at once instead of the first.

cattrs dispatches on the annotation; the hooks here refuse what Python would convert in silence (a string for a number,
`true` for 1) and report faults with their path inside the value. Its detailed validation would say less: where
one value has a fault it asks no validator, else it ends with the first that refuses.
"""

from __future__ import annotations

import collections.abc
import types
from collections.abc import Callable, Collection, Mapping
from enum import Enum
from pathlib import Path as FilePath
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

import attrs
from cattrs import Converter

from mixcore.config.describe import type_text, value_text
from mixcore.config.faults import Fault, Path
from mixcore.options import Saliency, as_saliency
from mixcore.words import suggestion

__all__ = ["option_fields", "structure"]

T = TypeVar("T")


class _InvalidValueError(Exception):
    """Faults inside one value, their paths relative to it."""

    def __init__(self, *faults: Fault) -> None:
        super().__init__("; ".join(fault.message for fault in faults))
        self.faults = faults


def option_fields(cls: type) -> dict[str, attrs.Attribute[Any]]:
    """The fields of an attrs class that a table may set, by their key, with resolved types."""
    attrs.resolve_types(cls)
    return {field.alias or field.name: field for field in attrs.fields(cls) if field.init}


def structure(
    cls: type[T], tree: Mapping[str, Any], path: Path = (), owner: str = "", beside: Collection[str] = ()
) -> tuple[T | None, list[Fault]]:
    """An instance of the attrs class `cls` from the keys of `tree`, or None and every fault found.

    Unknown keys, missing keys, wrong types and refusals of the fields' validators are all reported, each under `path`;
    `owner` is what messages call the table, and `beside` are keys that the table may have but `cls` does not see.
    """
    fields = option_fields(cls)
    owner = owner or (f"[{path[0]}]" if path else "the configuration")
    faults = [Fault((*path, key), _unknown_key(key, fields, owner, beside)) for key in tree if key not in fields]
    values: dict[str, Any] = {}
    for key, field in fields.items():
        if key in tree:
            try:
                values[key] = _converter.structure(tree[key], Any if field.type is None else field.type)
            except _InvalidValueError as invalid:
                faults += [attrs.evolve(fault, path=(*path, key, *fault.path)) for fault in invalid.faults]
        elif field.default is attrs.NOTHING:
            faults.append(Fault((*path, key), f"missing: {owner} needs it; expected {type_text(field.type)}"))
    instance = _unvalidated(cls, values)
    if instance is not None:
        faults += _refusals(instance, fields, values, path)
    if faults:
        return None, faults
    try:
        if instance is None:
            return cls(**values), []  # raises once more, and says what the class objects to
        attrs.validate(instance)  # type: ignore[arg-type]  # its defaults too
        return instance, []
    except Exception as error:  # a converter or __attrs_post_init__ of a plugin may raise anything
        return None, [Fault(path, f"{owner} refuses these values: {error}")]


def _unknown_key(key: str, fields: Collection[str], owner: str, beside: Collection[str]) -> str:
    has = f"has {', '.join(sorted(fields))}" if fields else "has no options"
    core = f"; every such table has {', '.join(sorted(beside))}" if beside else ""
    return f"unknown key: {owner} {has}{core}{suggestion(key, [*fields, *beside])}"


def _unvalidated(cls: type[T], values: dict[str, Any]) -> T | None:
    """The instance before its validators have spoken; None where keys are missing, or the class itself objects."""
    try:
        with attrs.validators.disabled():
            return cls(**values)
    except Exception:
        return None


def _refusals(
    instance: object, fields: Mapping[str, attrs.Attribute[Any]], keys: Collection[str], path: Path
) -> list[Fault]:
    """What the fields' validators say: each is run, where attrs itself would stop at the first."""
    faults = []
    for key in keys:
        field = fields[key]
        if field.validator is None:
            continue
        try:
            field.validator(instance, field, getattr(instance, field.name))
        except Exception as error:
            faults.append(Fault((*path, key), _said(error)))
    return faults


def _said(error: Exception) -> str:
    """What a validator said; attrs' own give a tuple, and some say nothing."""
    return str(error.args[0] if error.args else error) or type(error).__name__


def _refuse(value: object, expected: object, hint: str = "") -> _InvalidValueError:
    return _InvalidValueError(Fault((), f"expected {type_text(expected)}, found {value_text(value)}{hint}"))


def _structure_bool(value: object, cls: type) -> bool:
    if not isinstance(value, bool):
        raise _refuse(value, cls)
    return value


def _structure_int(value: object, cls: type) -> int:
    if issubclass(cls, Enum):
        return _structure_enum(value, cls)
    if isinstance(value, bool) or not isinstance(value, int):
        raise _refuse(value, cls)
    return value


def _structure_float(value: object, cls: type) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _refuse(value, cls)
    try:
        return float(value)
    except OverflowError:
        raise _refuse(value, cls) from None


def _structure_str(value: object, cls: type) -> str:
    if issubclass(cls, Enum):
        return _structure_enum(value, cls)
    if not isinstance(value, str):
        raise _refuse(value, cls)
    return value


def _structure_path(value: object, cls: type) -> FilePath:
    if not isinstance(value, str | FilePath):
        raise _refuse(value, cls)
    return FilePath(value)


def _structure_none(value: object, cls: type) -> None:
    if value is not None:
        raise _refuse(value, cls)


def _structure_literal(value: object, cls: Any) -> Any:
    for allowed in get_args(cls):
        if type(value) is type(allowed) and value == allowed:
            return value
    choices = [allowed for allowed in get_args(cls) if isinstance(allowed, str)]
    raise _refuse(value, cls, suggestion(value, choices) if isinstance(value, str) else "")


def _structure_enum(value: object, cls: Any) -> Any:
    for member in cls:
        if value is member or (type(value) is type(member.value) and value == member.value):
            return member
    raise _refuse(value, cls)


def _structure_union(value: object, cls: Any) -> Any:
    """The first member that takes the value, float last: 3 for `float | int` stays an int."""
    members = sorted(get_args(cls), key=lambda member: member is float)
    invalid = []
    for member in members:
        try:
            return _converter.structure(value, member)
        except _InvalidValueError as error:
            invalid.append(error)
    inner = [error for error in invalid if any(fault.path for fault in error.faults)]
    if len(inner) == 1:  # one member fits from outside: what is wrong inside it says more than the whole union
        raise inner[0]
    hints = [fault.message.partition("; did")[2] for error in invalid for fault in error.faults]
    hint = next((f"; did{hint}" for hint in hints if hint), "")
    raise _refuse(value, cls, hint)


_SEQUENCES: dict[object, Callable[[list[Any]], Any]] = {
    list: list,
    tuple: tuple,
    set: set,
    frozenset: frozenset,
    collections.abc.Sequence: tuple,
    collections.abc.Iterable: tuple,
}
_MAPPINGS = (dict, collections.abc.Mapping, collections.abc.MutableMapping)


def _origin(cls: Any) -> Any:
    return get_origin(cls) or cls


def _structure_sequence(value: object, cls: Any) -> Any:
    if not isinstance(value, list | tuple | set | frozenset):
        raise _refuse(value, cls)
    arguments = get_args(cls)
    if _origin(cls) is tuple and arguments and arguments[-1] is not Ellipsis:
        if len(value) != len(arguments):
            raise _refuse(value, cls)
        types_of_items = arguments
    else:
        types_of_items = (arguments[0] if arguments else Any,) * len(value)
    items, faults = [], []
    for index, (item, item_type) in enumerate(zip(value, types_of_items, strict=True)):
        try:
            items.append(_converter.structure(item, item_type))
        except _InvalidValueError as invalid:
            faults += [attrs.evolve(fault, path=(index, *fault.path)) for fault in invalid.faults]
    if faults:
        raise _InvalidValueError(*faults)
    try:
        return _SEQUENCES[_origin(cls)](items)
    except TypeError:  # an item of a set that Python cannot hash
        flat = f"expected a list without lists or tables in it, found {value_text(value)}"
        raise _InvalidValueError(Fault((), flat)) from None


def _structure_mapping(value: object, cls: Any) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise _refuse(value, cls)
    value_type = (get_args(cls) or (str, Any))[1]
    items, faults = {}, []
    for key, item in value.items():
        try:
            items[key] = _converter.structure(item, value_type)
        except _InvalidValueError as invalid:
            faults += [attrs.evolve(fault, path=(key, *fault.path)) for fault in invalid.faults]
    if faults:
        raise _InvalidValueError(*faults)
    return items


def _structure_attrs(value: object, cls: Any) -> Any:
    if isinstance(value, cls):
        return value
    if not isinstance(value, Mapping):
        raise _refuse(value, cls)
    instance, faults = structure(cls, value, (), "this table")
    if faults:
        raise _InvalidValueError(*faults)
    return instance


def _structure_saliency(value: object, cls: Any) -> Saliency:
    """A name, a table with a name, or an instance; options are checked when the name has led to a class."""
    if isinstance(value, Mapping) and not isinstance(value.get("name"), str):
        what = 'it says which saliency, such as { name = "feature" }'
        found = f"expected a string, found {value_text(value['name'])}" if "name" in value else "missing"
        raise _InvalidValueError(Fault(("name",), f"{found}: {what}"))
    if isinstance(value, str | Mapping) or attrs.has(type(value)):
        return as_saliency(value)
    raise _refuse(value, cls)


def _unsupported(cls: Any) -> Callable[[object, Any], object]:
    """The hook of a type that no TOML value has: in Python an instance of it may be given, such as a network."""

    def take_instance(value: object, _cls: Any) -> object:
        if isinstance(cls, type) and isinstance(value, cls):
            return value
        raise _InvalidValueError(Fault((), f"its declared type {type_text(cls)} is none that a TOML value can have"))

    return take_instance


def _make_converter() -> Converter:
    converter = Converter(detailed_validation=False, structure_fallback_factory=_unsupported)
    for cls, hook in (
        (bool, _structure_bool),
        (int, _structure_int),
        (float, _structure_float),
        (str, _structure_str),
        (FilePath, _structure_path),
        (type(None), _structure_none),
        (Enum, _structure_enum),
    ):
        converter.register_structure_hook(cls, hook)
    predicates: tuple[tuple[Callable[[Any], bool], Callable[[Any, Any], Any]], ...] = (
        (lambda cls: _origin(cls) is Literal, _structure_literal),
        (lambda cls: _origin(cls) in (Union, types.UnionType), _structure_union),
        (lambda cls: _origin(cls) in _SEQUENCES, _structure_sequence),
        (lambda cls: _origin(cls) in _MAPPINGS, _structure_mapping),
        (lambda cls: isinstance(cls, type) and attrs.has(cls), _structure_attrs),
        (lambda cls: cls is Saliency, _structure_saliency),
    )
    for predicate, predicate_hook in predicates:
        converter.register_structure_hook_func(predicate, predicate_hook)
    return converter


_converter = _make_converter()
