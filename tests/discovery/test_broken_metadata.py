"""One broken distribution in the environment breaks no command, and is named where it matters."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path

import attrs
import pytest

from mixcore.cli.main import main
from mixcore.discovery import catalogue
from mixcore.discovery.catalogue import find, installed, unreadable
from mixcore.discovery.declared import declared
from mixcore.errors import BrokenPluginError, UnknownPluginError

METADATA = "Metadata-Version: 2.1\nName: odd-dist\nVersion: 1.0\n"
POINTS = "[mixcore]\nodd = odd:Odd\n"


@pytest.fixture
def odd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[bytes | None, bytes], Path]:
    """`odd(metadata, entry_points)`: a distribution of these two files; its folder."""

    def make(metadata: bytes | None, points: bytes) -> Path:
        info = tmp_path / "odd_dist-1.0.dist-info"
        info.mkdir()
        if metadata is not None:
            (info / "METADATA").write_bytes(metadata)
        (info / "entry_points.txt").write_bytes(points)
        monkeypatch.syspath_prepend(str(tmp_path))
        importlib.invalidate_caches()
        return info

    return make


@pytest.mark.parametrize(
    ("metadata", "points", "names", "fault"),
    [
        (METADATA.replace("Name: odd-dist\n", ""), POINTS, "odd_dist-1.0.dist-info", "it has no Name"),
        (METADATA.replace("Version: 1.0\n", ""), POINTS, "odd-dist", "it has no Version"),
        (None, POINTS, "odd_dist-1.0.dist-info", "metadata cannot be read"),
        (METADATA, "[mixcore]\nodd\n", "odd-dist", 'its entry point "odd" is no "name = module:Class"'),
        (METADATA, "[mixcore]\n= odd:Odd\n", "odd-dist", 'is no "name = module:Class"'),
        (METADATA, "[mixcore]\nodd = \n", "odd-dist", 'is no "name = module:Class"'),
        ("\xff\xfe", POINTS, "odd_dist-1.0.dist-info", "metadata cannot be read"),
    ],
    ids=["no name", "no version", "no metadata", "no equals", "no key", "no value", "bytes"],
)
def test_the_distribution_is_named_and_the_others_work(
    odd: Callable[..., Path],
    capsys: pytest.CaptureFixture[str],
    metadata: str | None,
    points: str,
    names: str,
    fault: str,
) -> None:
    odd(metadata.encode("latin1") if metadata is not None else None, points.encode())
    assert installed()["weights"][0].distribution == "mixcore"
    assert "odd" not in installed()
    (found,) = unreadable()
    assert found.distribution.endswith(names)
    assert fault in found.fault
    with pytest.raises(UnknownPluginError) as caught:
        find("odd", installed())
    assert str(found) in str(caught.value)
    assert main(["plugins"]) == 0
    out, err = capsys.readouterr()
    assert "weights" in out
    assert names in err


def test_distributions_that_say_nothing_to_mixcore_are_let_be(odd: Callable[..., Path]) -> None:
    odd(None, b"[console_scripts]\nbroken\n")
    assert unreadable() == []
    assert "weights" in installed()


def test_a_distribution_without_entry_points_is_not_advised_again(
    install: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    install({}, distribution="mixcore-plugin-empty", version="0.3")
    monkeypatch.setattr(catalogue, "published", lambda: frozenset({"mixcore-plugin-empty"}))
    with pytest.raises(UnknownPluginError) as caught:
        find("empty", installed())
    message = str(caught.value)
    assert "mixcore-plugin-empty 0.3 is installed and offers no plugin" in message
    assert "--force-reinstall --no-deps mixcore-plugin-empty" in message


class Declares:
    """Declarations as a stranger may write them."""


@pytest.mark.parametrize("attribute", ["needs", "provides", "accepts", "stages", "suggests"])
@pytest.mark.parametrize("value", [None, 3, (["a"],), (None,), {"labels": 3}], ids=str)
def test_declarations_that_are_no_names(attribute: str, value: object) -> None:
    plugin = attrs.define(type("Odd", (Declares,), {attribute: value}))()
    with pytest.raises(BrokenPluginError, match=rf"^odd \(fake 1\.0\): {attribute} "):
        declared(plugin, "odd (fake 1.0)")


def test_a_declaration_that_raises() -> None:
    plugin = attrs.define(type("Odd", (), {"needs": property(lambda _self: 1 / 0)}))()
    with pytest.raises(BrokenPluginError, match="odd: needs raises ZeroDivisionError"):
        declared(plugin, "odd")


UNWRITABLE = """
import attrs
from mixcore.api import Mix, hookimpl

@attrs.define(eq=False, kw_only=True)
class Odd:
    role = "mix"
    thing: object = attrs.field(factory=object)

    @hookimpl
    def generate_mix(self, images):
        return Mix.clean(images)
"""


def test_an_option_that_toml_cannot_hold_fails_the_check_as_it_fails_the_run(
    install: Callable[..., None], toy_config: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    install({"odd": "fake_odd:Odd"}, {"fake_odd": UNWRITABLE}, distribution="fake-odd")
    everything = catalogue.installed
    monkeypatch.setattr(catalogue, "installed", lambda: {"odd": everything()["odd"]})
    assert main(["plugins", "--check"]) == 1
    out, err = capsys.readouterr()
    assert "broken: odd (fake-odd 1.0): its option thing: a object cannot be written as TOML" in out
    assert "1 of 1: odd is broken" in err
