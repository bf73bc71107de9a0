"""Whether installed plugins work: each is imported in a process of its own, so that none can disturb another.

`python -m mixcore.discovery.check NAME` checks one and prints what it found as JSON.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Any

import attrs

from mixcore.children import child_environment, python_module
from mixcore.config.structure import option_fields
from mixcore.discovery.catalogue import find, installed
from mixcore.discovery.declared import declared
from mixcore.discovery.load import load
from mixcore.discovery.select import plain_options
from mixcore.entry_points import Entry
from mixcore.errors import BrokenPluginError, ConfigError, MixcoreError
from mixcore.hooks.roles import role_of

__all__ = ["Checked", "check_all"]

TIMEOUT = 300
"""Seconds that the import of one plugin may take."""
_MARK = "mixcore-check "


@attrs.frozen(kw_only=True)
class Checked:
    """What the check of one plugin found; `fault` is empty where it works."""

    name: str
    distribution: str
    version: str
    role: str = ""
    provides: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    fault: str = ""


def check_all(entries: Iterable[Entry]) -> Iterator[Checked]:
    """Check each entry in its own process, as many at a time as there are CPUs; each as soon as it is known."""
    with ThreadPoolExecutor(max_workers=os.cpu_count() or 1) as pool:
        for done in as_completed([pool.submit(_check_in_process, entry) for entry in entries]):
            yield done.result()


def _check_in_process(entry: Entry) -> Checked:
    checked = Checked(name=entry.name, distribution=entry.distribution, version=entry.version)
    command, environment = python_module("mixcore.discovery.check", entry.name), child_environment()
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT, env=environment, check=False)
    except subprocess.TimeoutExpired:
        return attrs.evolve(checked, fault=f"its import did not end within {TIMEOUT} s")
    for line in done.stdout.splitlines():
        if line.startswith(_MARK):
            return attrs.evolve(checked, **json.loads(line.removeprefix(_MARK)))
    last = (done.stderr.strip().splitlines() or ["nothing was said"])[-1]
    return attrs.evolve(checked, fault=f"the process ended with status {done.returncode}: {last}")


def _check_here(name: str) -> dict[str, Any]:
    """What `Checked` has to say of one plugin, found in this process."""
    from mixcore.discovery.manager import new_manager, register

    try:
        entry = find(name, installed())
        cls = load(entry)
        found = {"role": role_of(cls)}
        if any(field.default is attrs.NOTHING for field in option_fields(cls).values()):
            return found  # an option without default: an instance can only come from a configuration
        plugin = cls()
        register(new_manager(), plugin, name, entry.label)
        _check_options(plugin, entry.label)
        own = declared(plugin, entry.label)
        return {**found, "provides": sorted(own.provides), "needs": sorted(own.needs)}
    except MixcoreError as error:
        return {"fault": str(error)}
    except Exception as error:  # whatever a stranger's class raises is what the check is for
        return {"fault": f"{type(error).__name__}: {error}"}


def _check_options(plugin: Any, label: str) -> None:
    """A run writes every option into its folder: a default that TOML cannot hold would end each run."""
    try:
        plain_options(plugin)
    except ConfigError as error:
        raise BrokenPluginError(f"{label}: {error}; give it a default of TOML's own types") from error


def main() -> None:
    """Check the plugin named on the command line."""
    sys.stdout.write(f"{_MARK}{json.dumps(_check_here(sys.argv[1]))}\n")


if __name__ == "__main__":
    main()
