"""One entry becomes a class, or an error that tells the causes apart."""

from __future__ import annotations

import sys
from collections.abc import Callable

import pytest

from mixcore.discovery.catalogue import find, host_version, installed
from mixcore.discovery.load import load
from mixcore.errors import BrokenPluginError, PluginVersionError
from mixcore.hooks.version import SPEC_VERSION

HEAD = "import attrs\n@attrs.define(eq=False, kw_only=True)\nclass Thing:\n"
Install = Callable[..., None]


def _load(install: Install, source: str | None, value: str = "fake_thing:Thing", **more: object) -> type:
    install({"thing": value}, {} if source is None else {"fake_thing": source}, distribution="fake-thing", **more)
    return load(find("thing", installed()))


def test_a_class_is_loaded(install: Install) -> None:
    assert _load(install, HEAD + "    role = 'mix'").__name__ == "Thing"


@pytest.mark.parametrize(
    ("source", "value", "message", "cause"),
    [
        (None, "fake_thing:Thing", "its own module fake_thing is missing; install it again: pip", ModuleNotFoundError),
        ("import not_there_x", "fake_thing:Thing", "needs the module not_there_x, which is not", ModuleNotFoundError),
        ("from attrs import nothing_x", "fake_thing:Thing", "ImportError while it was imported: cannot", ImportError),
        ("1 / 0", "fake_thing:Thing", "ZeroDivisionError while it was imported: division by zero", ZeroDivisionError),
        ("def (", "fake_thing:Thing", "SyntaxError while it was imported", SyntaxError),
        ("raise SystemExit(3)", "fake_thing:Thing", "SystemExit while it was imported: 3", SystemExit),
        (HEAD + "    pass", "fake_thing:Thin", 'has no attribute Thin; did you mean "Thing"?', None),
    ],
)
def test_causes_are_told_apart(
    install: Install, source: str | None, value: str, message: str, cause: type[BaseException] | None
) -> None:
    with pytest.raises(BrokenPluginError) as caught:
        _load(install, source, value)
    assert message in str(caught.value)
    assert str(caught.value).startswith(f'thing (fake-thing 1.0), entry point "thing = {value}": ')
    assert cause is None or isinstance(caught.value.__cause__, cause)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("Thing = 3", "is a int, expected a class"),
        ("class Thing: pass", "is no attrs class"),
        ("import attrs\n@attrs.define(kw_only=True)\nclass Thing: pass", "compares by value"),
        (
            HEAD + "    role = 'mixx'",
            "has role 'mixx', expected one of data, backbone, mix, saliency, labels, loss, analysis",
        ),
        (HEAD + "    role = 'mix'\n    probability: float = 1.0", "has a field 'probability', a key of the core's own"),
        (HEAD + "    role = 'data'\n    workers: int = 1", "has a field 'workers', a key of the core's own in [data]"),
        (HEAD + "    name: str = 'a'", "has a field 'name', a key of the core's own in [extra]"),
        (HEAD + "    size: 'Unknown' = 1", "the types of its fields cannot be read: name 'Unknown' is not defined"),
        (HEAD + "    spec_version = '1.0'", "has spec_version '1.0', expected a pair"),
    ],
)
def test_classes_that_are_no_plugins(install: Install, source: str, message: str) -> None:
    with pytest.raises(BrokenPluginError) as caught:
        _load(install, source)
    assert message in str(caught.value)


def test_a_field_of_another_role_may_have_a_name_of_the_core(install: Install) -> None:
    assert _load(install, HEAD + "    role = 'loss'\n    probability: float = 1.0") is not None


def test_version_of_the_specification(install: Install) -> None:
    major, minor = SPEC_VERSION
    for version, side in (
        ((major, minor + 1), "upgrade mixcore"),
        ((major + 1, 0), "upgrade mixcore"),
        ((major - 1, 9), "upgrade the plugin"),
    ):
        name = f"fake-{version[0]}-{version[1]}"
        module = name.replace("-", "_")
        install({module: f"{module}:Thing"}, {module: HEAD + f"    spec_version = {version}"}, distribution=name)
        with pytest.raises(PluginVersionError, match=f"version {version[0]}.{version[1]} of the hook spec.*{side}"):
            load(find(module, installed()))


def test_version_of_mixcore_is_compared_before_the_import(install: Install) -> None:
    for number, (requirement, side) in enumerate(
        (("mixcore>=99", "upgrade mixcore: pip"), ("mixcore<0.0.1", "upgrade the plugin: pip"))
    ):
        module = f"fake_pinned_{number}"
        install({module: f"{module}:Thing"}, {module: "1 / 0"}, distribution=module, requires=[requirement])
        with pytest.raises(PluginVersionError, match=side) as caught:
            load(find(module, installed()))
        assert f"this is mixcore {host_version()}" in str(caught.value)
        assert module not in sys.modules


def test_requirements_of_extras_and_other_packages_do_not_count(install: Install) -> None:
    requires = ['mixcore>=99; extra == "new"', "attrs<0.1", "mixcore>=0.0.1"]
    assert _load(install, HEAD + "    pass", requires=requires) is not None
