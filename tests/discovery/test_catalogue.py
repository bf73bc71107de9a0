"""Names come from metadata alone; what is unknown or claimed twice is said with what to type next."""

from __future__ import annotations

import sys
from collections.abc import Callable

import pytest

from mixcore.discovery.catalogue import find, installed, published
from mixcore.errors import PluginConflictError, UnknownPluginError


def test_listing_imports_no_plugin(install: Callable[..., None]) -> None:
    install({"listed": "fake_listed:Listed"}, {"fake_listed": "raise RuntimeError"}, distribution="fake-listed")
    (entry,) = installed()["listed"]
    assert (entry.distribution, entry.version, entry.summary) == ("fake-listed", "1.0", "What fake-listed is for.")
    assert entry.label == "listed (fake-listed 1.0)"
    assert "fake_listed" not in sys.modules


def test_names_of_the_core_are_installed() -> None:
    assert [entry.distribution for entry in installed()["weights"]] == ["mixcore"]


def test_unknown_names_get_the_nearest(install: Callable[..., None]) -> None:
    install({"puzzle": "fake:Puzzle"})
    with pytest.raises(UnknownPluginError) as caught:
        find("puzle", installed())
    message = str(caught.value)
    assert 'no installed plugin is called "puzle"; did you mean "puzzle"?' in message
    assert "weights" in message, "the installed names are listed"
    assert "pip install" not in message, "a misspelling is not to be installed"


def test_a_strange_name_may_be_published() -> None:
    with pytest.raises(UnknownPluginError, match="If it is published as a plugin: pip install mixcore-plugin-zq-x7"):
        find("zq_x7", installed())


def test_known_plugins_that_are_not_installed_get_the_pip_line() -> None:
    assert "mixcore-plugin-cutmix" in published()
    without = {name: entries for name, entries in installed().items() if name != "cutmix"}
    for spelling in ("cutmix", "CutMix"):
        with pytest.raises(UnknownPluginError, match=r"Install it with: pip install mixcore-plugin-cutmix$"):
            find(spelling, without)


def test_two_claimants_are_both_named(install: Callable[..., None]) -> None:
    install({"twice": "fake:A"}, distribution="fake-a", version="1.5")
    install({"twice": "fake:B"}, distribution="fake-b", version="2.0")
    with pytest.raises(PluginConflictError) as caught:
        find("twice", installed())
    message = str(caught.value)
    assert "fake-a 1.5" in message
    assert "fake-b 2.0" in message
    assert "pip uninstall fake-a or pip uninstall fake-b" in message


def test_names_of_the_core_are_reserved(install: Callable[..., None]) -> None:
    install({"weights": "fake:Weights"}, distribution="fake-thief")
    with pytest.raises(PluginConflictError, match="a name of mixcore's own") as caught:
        find("weights", installed())
    assert str(caught.value).endswith("pip uninstall fake-thief")
