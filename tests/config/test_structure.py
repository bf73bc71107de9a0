"""Values are structured strictly, and every fault is reported with its path."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Any, Literal

import attrs
import pytest

from mixcore.config.faults import dotted
from mixcore.config.structure import structure
from mixcore.words import nearest


class Colour(Enum):
    RED = "red"


@attrs.define(eq=False, kw_only=True)
class Inner:
    size: int = attrs.field(default=1, validator=attrs.validators.ge(1))


@attrs.define(eq=False, kw_only=True)
class Options:
    number: float = attrs.field(default=1.0, validator=attrs.validators.ge(0))
    count: int = 1
    flag: bool = False
    text: str | None = None
    mode: Literal["mean", "sum"] = "mean"
    pair: tuple[float, float] | None = None
    several: tuple[int, ...] = ()
    names: list[str] = attrs.field(factory=list)
    either: bool | Literal["auto"] | int = "auto"
    colour: Colour = Colour.RED
    table: dict[str, float] = attrs.field(factory=dict)
    file: Path | None = None
    inner: Inner = attrs.field(factory=Inner)
    inners: tuple[Inner, ...] = ()


@pytest.mark.parametrize(
    ("key", "given", "kept"),
    [
        ("number", 2, 2.0),
        ("text", "a", "a"),
        ("mode", "sum", "sum"),
        ("pair", [1, 2.5], (1.0, 2.5)),
        ("several", [1, 2], (1, 2)),
        ("either", True, True),
        ("either", 3, 3),
        ("colour", "red", Colour.RED),
        ("table", {"a": 1}, {"a": 1.0}),
        ("file", "a/b", Path("a/b")),
    ],
)
def test_accepted(key: str, given: Any, kept: Any) -> None:
    options, faults = structure(Options, {key: given})
    assert not faults
    value = getattr(options, key)
    assert value == kept
    assert type(value) is type(kept)


@pytest.mark.parametrize(
    ("key", "given", "path", "message"),
    [
        ("number", "0.2", "number", 'expected a number, found "0.2" (a string)'),
        ("number", True, "number", "expected a number, found true"),
        ("number", -1, "number", "'number' must be >= 0: -1.0"),
        ("number", float("nan"), "number", "'number' must be >= 0: nan"),
        ("count", True, "count", "expected an integer, found true"),
        ("count", 1.0, "count", "expected an integer, found 1.0 (a number)"),
        ("flag", 1, "flag", "expected true or false, found 1 (an integer)"),
        ("flag", "True", "flag", 'expected true or false, found "True" (a string)'),
        ("text", 3, "text", "expected a string, found 3 (an integer)"),
        ("mode", "maen", "mode", 'expected "mean" or "sum", found "maen" (a string); did you mean "mean"?'),
        ("pair", [1.0], "pair", "expected a list of 2 (a number, a number), found a list of 1"),
        ("several", [1, "b"], "several[1]", 'expected an integer, found "b" (a string)'),
        ("names", "abc", "names", 'expected a list (each a string), found "abc" (a string)'),
        (
            "either",
            "aut",
            "either",
            'expected true or false, "auto" or an integer, found "aut" (a string); did you mean "auto"?',
        ),
        ("colour", "blue", "colour", 'expected "red", found "blue" (a string)'),
        ("table", {"a": "x"}, "table.a", 'expected a number, found "x" (a string)'),
        ("inner", {"size": 0}, "inner.size", "'size' must be >= 1: 0"),
        ("inners", [{}, {"sise": 1}], "inners[1].sise", 'unknown key: this table has size; did you mean "size"?'),
    ],
)
def test_refused(key: str, given: Any, path: str, message: str) -> None:
    options, faults = structure(Options, {key: given})
    assert options is None
    assert [(dotted(fault.path), fault.message) for fault in faults] == [(path, message)]


def test_every_fault_at_once() -> None:
    _, faults = structure(Options, {"number": -1, "count": "x", "flag": 0, "mod": "sum"}, ("mix", 1), "shape")
    assert sorted(dotted(fault.path) for fault in faults) == [
        "mix[1].count",
        "mix[1].flag",
        "mix[1].mod",
        "mix[1].number",
    ]


def test_several_validators_each_speak() -> None:
    @attrs.define(eq=False, kw_only=True)
    class Two:
        low: float = attrs.field(default=0.0, validator=attrs.validators.ge(0))
        high: float = attrs.field(default=1.0, validator=attrs.validators.le(1))

    _, faults = structure(Two, {"low": -1, "high": 2})
    assert [dotted(fault.path) for fault in faults] == ["low", "high"]


def test_a_class_that_objects_as_a_whole() -> None:
    @attrs.define(eq=False, kw_only=True)
    class Ordered:
        low: int = 0
        high: int = 1

        def __attrs_post_init__(self) -> None:
            if self.low > self.high:
                raise ValueError("low is above high")

    _, faults = structure(Ordered, {"low": 2}, ("mix",), "ordered")
    assert [(fault.path, fault.message) for fault in faults] == [
        (("mix",), "ordered refuses these values: low is above high")
    ]


def test_missing_key_and_class_without_options() -> None:
    @attrs.define(eq=False, kw_only=True)
    class Needs:
        root: str

    @attrs.define(eq=False, kw_only=True)
    class Bare:
        pass

    _, faults = structure(Needs, {}, ("data",), "folder")
    assert faults[0].message == "missing: folder needs it; expected a string"
    _, faults = structure(Bare, {"a": 1}, ("mix",), "bare")
    assert faults[0].message == "unknown key: bare has no options"


@attrs.define(eq=False, kw_only=True)
class Sets:
    some: frozenset[Any] = frozenset()


def test_a_set_of_lists_is_refused() -> None:
    assert [fault.message for fault in structure(Sets, {"some": [1, [2]]}, ("data",))[1]] == [
        "expected a list without lists or tables in it, found a list of 2"
    ]
    kept, _ = structure(Sets, {"some": [1, "a"]}, ("data",))
    assert kept is not None
    assert kept.some == {1, "a"}


def test_nearest_ignores_case() -> None:
    assert nearest("CutMix", ["cutmix", "mixup"]) == "cutmix"
    assert nearest("zzz", ["cutmix"]) is None
