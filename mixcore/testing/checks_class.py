"""Checks of the class itself: what is written as an option is one, and no two instances share a default."""

from __future__ import annotations

from collections.abc import Iterator

import attrs
from torch import Tensor, nn

from mixcore.discovery.declared import DECLARATIONS, own_attributes
from mixcore.testing.expect import expect
from mixcore.testing.harness import Harness

__all__ = ["every_option_is_a_field"]


def every_option_is_a_field(harness: Harness) -> None:
    """Options are annotated, so that attrs knows them, and no default is shared by all instances."""
    cls = type(harness.plugin)
    options, annotated = {field.name for field in attrs.fields(cls)}, dict(_annotations(cls))
    for name, base in annotated.items():
        expect(
            name in options or "ClassVar" in str(base.__annotations__[name]),
            f"{name} of class {base.__name__} is no option: put @attrs.define(eq=False, kw_only=True) above the class, "
            "and annotate its every attrs.field(...), without which attrs takes no other field",
        )
    for name, value in own_attributes(cls):
        known = name in DECLARATIONS or name in annotated or hasattr(value, "__get__")
        expect(
            known,
            f"{name} = {value!r} has no annotation, so that it is no option; write {name}: {type(value).__name__} = "
            f"... for an option, {name.upper()} or _{name} for a constant of the class",
        )
    for field in attrs.fields(cls):
        default = field.default
        shared = type(default).__hash__ is None or isinstance(default, Tensor | nn.Module)
        expect(
            not shared,
            f"the default of {field.name} is one {type(default).__name__} that all instances share; write "
            f"attrs.field(factory=...), or take a tuple",
        )


def _annotations(cls: type) -> Iterator[tuple[str, type]]:
    """Public names that are annotated in the class or those above it, each with the class where it is."""
    for base in cls.__mro__[:-1]:
        yield from ((name, base) for name in vars(base).get("__annotations__", {}) if not name.startswith("_"))
