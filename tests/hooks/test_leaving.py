"""A hook that calls sys.exit ends a run with an error that names it, never with exit code 0."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import attrs
import pytest

from mixcore.discovery.manager import new_manager, register
from mixcore.errors import HookError
from mixcore.hooks.calls import PluginCalls
from mixcore.hooks.markers import hookimpl


@attrs.define(eq=False, kw_only=True)
class Leaver:
    """Leaves wherever it is called."""

    @hookimpl
    def generate_mix(self, step: Any) -> None:
        sys.exit(0)

    @hookimpl
    def build_data(self) -> None:
        sys.exit("no data today")


@attrs.define(eq=False, kw_only=True)
class Watcher:
    """A wrapper of a hook, which takes the way through pluggy."""

    @hookimpl(wrapper=True)
    def generate_mix(self) -> Any:
        return (yield)


@pytest.mark.parametrize("watched", [False, True])
def test_a_hook_that_leaves_is_named(watched: bool) -> None:
    manager, plugin = new_manager(), Leaver()
    register(manager, plugin, "leaver", "leaver 1.0")
    if watched:
        register(manager, Watcher(), "watcher", "watcher 1.0")
    calls = PluginCalls(manager, plugin, "leaver", "leaver 1.0")
    with pytest.raises(HookError, match=r"build_data of leaver 1\.0 .*SystemExit\('no data today'\)"):
        calls.build_data()
    step = SimpleNamespace(epoch=2, iteration=9)
    arguments = dict.fromkeys(("images", "labels", "batch", "probe", "modules", "task", "rng"))
    said = r"generate_mix of leaver 1\.0 at epoch 2, iteration 9 called for the end of the process, SystemExit\(0\)"
    with pytest.raises(HookError, match=said) as left:
        calls.generate_mix(**arguments, step=step)
    assert left.value.exit_code == 1
