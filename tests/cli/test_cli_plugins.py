"""`mixcore plugins`: a list without imports, one plugin's options, and a check of each in its own process."""

from __future__ import annotations

import sys
from collections.abc import Callable

import pytest

from mixcore.cli.main import main
from mixcore.cli.table import print_table
from mixcore.discovery import catalogue

SHAPE = '''
import attrs
from typing import Literal
from mixcore.api import Mix, hookimpl


@attrs.define(eq=False, kw_only=True)
class Base:
    prob: float = 1.0
    """Chance of being mixed,
    in [0, 1]."""


@attrs.define(eq=False, kw_only=True)
class Shape(Base):
    """Shapes of the partner,
    pasted into the image.

    More about it.
    """

    role = "mix"
    provides = frozenset({"mask"})
    suggests = {"labels": "area"}
    sizes: tuple[int, ...] = (1, 2)
    mode: Literal["hard", "soft"] = "hard"
    """How edges look."""
    limit: float | None = None
    root: str

    @hookimpl
    def generate_mix(self, images):
        return Mix.clean(images)


@attrs.define(eq=False, kw_only=True)
class Misspelt:
    role = "mix"

    @hookimpl
    def genrate_mix(self, images):
        return None


@attrs.define(eq=False, kw_only=True)
class Fine:
    role = "mix"
    needs = frozenset({"attention"})

    @hookimpl
    def generate_mix(self, images):
        return Mix.clean(images)
'''


@pytest.fixture
def shape(install: Callable[..., None]) -> None:
    install({"shape": "fake_cli_shape:Shape"}, {"fake_cli_shape": SHAPE}, distribution="fake-shape")


@pytest.mark.parametrize("arguments", [["plugins"], ["plugins", "list"]])
def test_list(shape: None, capsys: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    assert main(arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["name", "distribution", "version", "summary"]
    (line,) = [line for line in lines if line.startswith("shape ")]
    assert line.split(maxsplit=3) == ["shape", "fake-shape", "1.0", "What fake-shape is for."]
    assert "fake_cli_shape" not in sys.modules


def test_list_on_a_terminal_is_a_table(
    shape: None, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert main(["plugins"]) == 0
    assert "┃" in capsys.readouterr().out


def test_show(shape: None, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plugins", "show", "shape"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "shape (fake-shape 1.0)"
    assert "Shapes of the partner, pasted into the image." in lines
    assert {"role: mix", "provides: mask", "suggests: labels = area"} <= set(lines)
    table = {line.split()[0]: " ".join(line.split()[1:]) for line in lines if line and line.split()[0] in SHAPE}
    assert table["prob"] == "a number 1.0 Chance of being mixed, in [0, 1]."
    assert table["sizes"] == "a list (each an integer) [1, 2]"
    assert table["mode"] == '"hard" or "soft" "hard" How edges look.'
    assert table["limit"] == "a number absent"
    assert table["root"] == "a string required"


def test_show_of_an_unknown_name(shape: None, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plugins", "show", "shpe"]) == 2
    assert 'did you mean "shape"?' in capsys.readouterr().err


def test_check_tries_each_in_its_own_process(
    install: Callable[..., None],
    shape: None,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    dying = "import os; os._exit(7)"
    module = "fake_cli_shape"
    entries = {"fine": f"{module}:Fine", "misspelt": f"{module}:Misspelt", "dying": "fake_dying:Dying"}
    install(entries, {"fake_dying": dying}, distribution="fake-mixed")
    only = {"shape", *entries}
    everything = catalogue.installed
    monkeypatch.setattr(catalogue, "installed", lambda: {n: e for n, e in everything().items() if n in only})
    assert main(["plugins", "--check"]) == 1
    rows = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()}
    assert rows["shape"].split()[3:] == ["mix", "ok"], "one with a required option is imported, but not made"
    assert rows["fine"].split()[3:] == ["mix", "attention", "ok"]
    assert "broken: " in rows["misspelt"]
    assert "genrate_mix" in rows["misspelt"]
    assert "broken: the process ended with status 7" in rows["dying"]
    only = {"fine"}
    assert main(["plugins", "--check"]) == 0
    assert module not in sys.modules


def test_roles_are_listed_without_an_import_in_this_process(
    install: Callable[..., None],
    shape: None,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    install({"gone": "fake_gone:Gone"}, distribution="fake-gone")
    everything = catalogue.installed
    only = ("shape", "gone")
    monkeypatch.setattr(catalogue, "installed", lambda: {n: e for n, e in everything().items() if n in only})
    assert main(["plugins", "--roles"]) == 0
    head, *rows = capsys.readouterr().out.splitlines()
    found = {row.split()[0]: row for row in rows}
    assert head.split() == ["name", "distribution", "version", "role", "summary"]
    assert found["shape"].split()[3] == "mix"
    assert "unknown: " in found["gone"]
    assert "fake_cli_shape" not in sys.modules


def test_markup_in_a_cell_is_shown_as_it_is(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    print_table(("help",), [("in [0, 1] or [mix]",)])
    assert "in [0, 1] or [mix]" in capsys.readouterr().out
