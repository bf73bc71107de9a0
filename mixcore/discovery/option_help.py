"""What a plugin class says about its options: type, default, and the string below each field."""

from __future__ import annotations

import ast
import inspect
import textwrap
from itertools import pairwise
from typing import Any

import attrs

from mixcore.config.describe import type_text
from mixcore.config.structure import option_fields

__all__ = ["OptionHelp", "option_help"]


@attrs.frozen(kw_only=True)
class OptionHelp:
    """One option, as `mixcore plugins show` prints it."""

    name: str
    type: str
    default: str
    help: str


def option_help(cls: type[Any]) -> list[OptionHelp]:
    """The options of a plugin class, in the order of its fields."""
    texts = _field_docstrings(cls)
    return [
        OptionHelp(name=key, type=type_text(field.type), default=_default_text(field), help=texts.get(field.name, ""))
        for key, field in option_fields(cls).items()
    ]


def _default_text(field: attrs.Attribute[Any]) -> str:
    default: Any = field.default
    if default is attrs.NOTHING:
        return "required"
    if hasattr(default, "takes_self"):
        if default.takes_self:
            return "computed"
        default = default.factory()
    if default is None:
        return "absent"
    if isinstance(default, bool):
        return str(default).lower()
    if isinstance(default, str):
        return f'"{default}"'
    return str(list(default)) if isinstance(default, tuple | set | frozenset) else str(default)


def _field_docstrings(cls: type[Any]) -> dict[str, str]:
    """The string literal that follows each field in the source of the class or of those it inherits from."""
    texts: dict[str, str] = {}
    for parent in reversed(cls.__mro__):
        try:
            tree = ast.parse(textwrap.dedent(inspect.getsource(parent)))
        except (OSError, TypeError, SyntaxError):
            continue  # built in, or the source is not installed
        body = tree.body[0].body if isinstance(tree.body[0], ast.ClassDef) else []
        for statement, following in pairwise(body):
            if (
                isinstance(statement, ast.AnnAssign)
                and isinstance(statement.target, ast.Name)
                and isinstance(following, ast.Expr)
                and isinstance(following.value, ast.Constant)
                and isinstance(following.value.value, str)
            ):
                texts[statement.target.id] = " ".join(following.value.value.split())
    return texts
