"""What the options of plugins need and attrs has not: validators, a mark for places, and the type of a saliency."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import attrs

from mixcore.errors import OptionValueError

__all__ = ["PLACE", "Saliency", "all_positive", "as_saliency", "early_stages", "is_place", "range_of_shares"]

DEEPEST = 3
"""The last stage whose output an option of early stages may name by its number."""

PLACE: Mapping[str, bool] = MappingProxyType({"mixcore.place": True})
"""Metadata of an option that says where things lie or how they come there, and changes no number of a run.

`root: str = attrs.field(default="data", metadata=PLACE)`. Such an option is no part of the run's digest: a run goes on
after its data set was moved, and the same experiment on two machines counts as one.
"""


def all_positive(instance: object, attribute: attrs.Attribute[Any], value: Sequence[float] | None) -> None:  # noqa: ARG001
    """Validator for attrs: None, or at least one number, all finite and above 0, such as a `std` per channel."""
    if value is not None and not (value and all(0 < number < math.inf for number in value)):
        raise ValueError(f"{attribute.name} must hold finite numbers above 0, found {list(value)}")


def range_of_shares(instance: object, attribute: attrs.Attribute[Any], value: Sequence[float] | None) -> None:  # noqa: ARG001
    """Validator for attrs: None, or two shares [low, high] with 0 <= low < high <= 1, such as those of box sides."""
    if value is not None and not (len(value) == 2 and 0 <= value[0] < value[1] <= 1):
        raise ValueError(f"{attribute.name!r} must be two shares [low, high] with 0 <= low < high <= 1, found {value}")


def early_stages(instance: object, attribute: attrs.Attribute[Any], value: Sequence[int | str]) -> None:  # noqa: ARG001
    """Validator for attrs: different stages to mix at, numbers from 0 (the input) to 3, or names of modules."""
    known = all(bool(stage) if isinstance(stage, str) else 0 <= stage <= DEEPEST for stage in value)
    if not value or len(set(value)) < len(value) or not known:
        raise ValueError(
            f"{attribute.name!r} must be different stages from 0 (the input) to {DEEPEST}, such as [0, 1, 2], or names "
            f'of modules, such as [0, "layer1"], found {list(value)}'
        )


def is_place(field: attrs.Attribute[Any]) -> bool:
    """Whether an option is marked with PLACE."""
    return bool(field.metadata.get("mixcore.place", False))


@attrs.frozen
class Saliency:
    """Where a method reads saliency: the type of an option that holds a plugin of role saliency.

    `saliency: Saliency = attrs.field(default=Saliency("input_grad"), converter=as_saliency)`. In TOML the option is a
    name, or a table of a name and options; a hook reads it by `probe.saliency(self.saliency, images, labels)`. What the
    saliency needs of the backbone, and the parts that it brings, are its own: who holds it declares nothing.
    """

    name: str
    """Its name in the configuration; of an instance, that of its class in lower case."""
    options: Mapping[str, Any] = attrs.field(factory=dict, hash=False)
    """The options that were given, as in TOML; not yet checked against the class of that name."""
    plugin: Any = attrs.field(default=None, hash=False)
    """The instance itself, where an instance was given."""

    def __str__(self) -> str:
        """In one line for people: the name, and the options that were given."""
        given = ", ".join(f"{key}={value!r}" for key, value in self.options.items())
        return f"{self.name}({given})" if given else self.name


def as_saliency(given: object) -> Saliency:
    """Converter for attrs: a name, a table {"name": ..., option: value}, or an instance of a plugin of role saliency.

    OptionValueError for a table without a name.
    """
    if isinstance(given, Saliency):
        return given
    if isinstance(given, str):
        return Saliency(given)
    if not isinstance(given, Mapping):
        return Saliency(type(given).__name__.lower(), plugin=given)
    name = given.get("name")
    if not isinstance(name, str):
        raise OptionValueError('a table says which saliency it is, such as { name = "feature" }')
    return Saliency(name, {key: value for key, value in given.items() if key != "name"})
