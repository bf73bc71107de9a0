"""What installed plugins are, found by importing them in processes of their own: never in the run's.

`python -m mixcore.discovery.survey NAME...` imports one after the other and prints a line of JSON for each.
"""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import attrs

from mixcore.children import child_environment, python_module
from mixcore.discovery.catalogue import find, installed
from mixcore.discovery.declared import Declared, declared
from mixcore.discovery.load import load
from mixcore.entry_points import Entry
from mixcore.hooks.roles import role_of

__all__ = ["IMPORT_LIMIT", "Surveyed", "every_plugin_of_role", "look_at", "plugins_of_role", "survey"]

LIMIT = 20
"""Seconds that somebody waits for a message: what is not known by then is left out of it."""
IMPORT_LIMIT = 300
"""Seconds that somebody waits who needs to know of every plugin."""
LATE = "its import did not end in time"
_MARK = "mixcore-survey "


@attrs.frozen(kw_only=True)
class Surveyed:
    """What one plugin is; `fault` says why that is not known."""

    role: str = ""
    """Empty where that is not known."""
    declared: Declared | None = None
    """Declarations with default options; None for a plugin that has options without default."""
    fault: str = ""


def plugins_of_role(role: str) -> dict[str, Surveyed]:
    """The installed plugins of a role, by name, and those not known in time; broken ones are left out."""
    names = tuple(name for name, entries in installed().items() if len(entries) == 1)
    surveyed = _survey_once(names, tuple(sys.path), LIMIT)
    return {
        name: found
        for name, found in surveyed.items()
        if (not found.fault and found.role == role) or found.fault == LATE
    }


def every_plugin_of_role(role: str) -> tuple[list[str], dict[str, str]]:
    """The installed plugins of a role, by name, and why of others it cannot be told whether they are."""
    names = [name for name, entries in installed().items() if len(entries) == 1]
    found = survey(names, IMPORT_LIMIT)
    broken = {name: one.fault for name, one in found.items() if one.fault}
    return [name for name, one in found.items() if not one.fault and one.role == role], broken


@functools.cache
def _survey_once(names: tuple[str, ...], _path: tuple[str, ...], limit: float) -> Mapping[str, Surveyed]:
    return survey(names, limit)


def survey(names: Sequence[str], limit: float) -> dict[str, Surveyed]:
    """Import the plugins of these names, as many at a time as there are CPUs, within `limit` seconds."""
    processes = min(os.cpu_count() or 1, max(1, len(names) // 8))  # each has to import torch first
    ends = time.monotonic() + limit
    with ThreadPoolExecutor(max_workers=processes) as pool:
        parts = pool.map(lambda part: _survey_part(part, ends), [names[k::processes] for k in range(processes)])
        found = {name: one for part in parts for name, one in part.items()}
    return {name: found[name] for name in names}


def _survey_part(names: Sequence[str], ends: float) -> dict[str, Surveyed]:
    """One child after the other: where a plugin ends its child, the next one goes on behind it."""
    found: dict[str, Surveyed] = {}
    while len(found) < len(names):
        left = [name for name in names if name not in found]
        told, fault = _ask_child(left, ends - time.monotonic())
        found.update(told)
        behind = [name for name in left if name not in told]
        if behind:
            found[behind[0]] = Surveyed(fault=fault)
    return found


def _ask_child(names: Sequence[str], seconds: float) -> tuple[dict[str, Surveyed], str]:
    """What one child told before it ended, and what ended it."""
    if seconds <= 0:
        return {}, LATE
    try:
        done = subprocess.run(
            python_module("mixcore.discovery.survey", *names),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=seconds,
            env=child_environment(),
            check=False,
        )
        output, fault = done.stdout, f"its import ended the process with status {done.returncode}"
    except subprocess.TimeoutExpired as error:
        output, fault = error.stdout or b"", LATE
    told = {}
    for line in output.decode(errors="replace").splitlines():
        if line.startswith(_MARK):
            name, one = json.loads(line.removeprefix(_MARK))
            told[name] = _from_plain(one)
    return told, fault


def _from_plain(one: dict[str, Any]) -> Surveyed:
    own = one.pop("declared")
    if own is None:
        return Surveyed(**one)
    sets = {key: frozenset(own[key]) for key in ("needs", "provides", "accepts")}
    sequences = {key: tuple(own[key]) for key in ("stages", "maps")}
    return Surveyed(**one, declared=Declared(**{**own, **sets, **sequences}))


def look_at(name: str) -> Surveyed:
    """Import one plugin in this process."""
    try:
        entry: Entry = find(name, installed())
        cls = load(entry)
    except Exception as error:
        return Surveyed(fault=str(error))
    role = role_of(cls)
    try:
        return Surveyed(role=role, declared=declared(cls(), entry.label))
    except Exception:  # an option without default, or declarations that the check of plugins will tell
        return Surveyed(role=role)


def main() -> None:
    """Print what each plugin named on the command line is, as soon as it is known."""
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a plugin prints while it is imported goes elsewhere
    for name in sys.argv[1:]:
        plain = attrs.asdict(look_at(name), value_serializer=_as_plain)
        out.write(f"{_MARK}{json.dumps([name, plain])}\n")
        out.flush()
    os._exit(0)  # threads and exit handlers of plugins are not waited for


def _as_plain(_instance: Any, _attribute: Any, value: Any) -> Any:
    return sorted(value) if isinstance(value, set | frozenset) else value


if __name__ == "__main__":
    main()
