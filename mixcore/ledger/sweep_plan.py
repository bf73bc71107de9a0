"""From a sweep file to its runs: every combination a checked configuration, and what does not fit named."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs

from mixcore.config.layers import Setting, settings_layer
from mixcore.config.run_dir import check_dir, folder_name, setting_texts
from mixcore.discovery.manager import register_selection
from mixcore.discovery.survey import every_plugin_of_role
from mixcore.errors import ConfigError, MixcoreError
from mixcore.hooks.roles import ROLES
from mixcore.ledger.sweep_file import ALL, MIXER, SweepFile
from mixcore.run.folder import RunFolder
from mixcore.run.numerics import numerics
from mixcore.run.resolve import Loaded, load_layers
from mixcore.run.trial import try_run

__all__ = ["Plan", "PlannedRun", "plan_sweep"]


@attrs.frozen(kw_only=True, eq=False)
class PlannedRun:
    """One run of a sweep."""

    settings: Mapping[str, Any]
    """What the grid gives it, by key."""
    seed: int
    loaded: Loaded
    folder: RunFolder

    @property
    def name(self) -> str:
        """Its name in the sweep, which is that of its folder."""
        return self.folder.path.name


@attrs.frozen(kw_only=True, eq=False)
class Plan:
    """All runs of a sweep, in the order of the file, the seeds of a setting behind each other."""

    dir: Path
    runs: tuple[PlannedRun, ...]
    refused: Mapping[str, str]
    """Settings that "all" would have had, in words, and why each does not fit."""


Setup = Mapping[str, Any]
"""One combination of the grid: key -> value."""


def plan_sweep(sweep: SweepFile, say: Callable[[str], object]) -> Plan:
    """Load the configuration of every run, and try the first iteration of every setting that has not begun.

    `say` is told what is being looked at. Raises ConfigError with what is wrong with all of them, each fault once with
    the runs that have it.
    """
    check_dir(str(sweep.dir), "dir: the folder of the sweep", 'Name another one by dir = "..." in the sweep file')
    fitting, broken = every_plugin_of_role("mix") if ALL in sweep.grid.get(MIXER, ()) else ((), {})
    refused = {f"{MIXER}={name}": reason for name, reason in broken.items()}
    faults: dict[str, list[str]] = {}
    runs: list[PlannedRun] = []
    setups = list(_setups(sweep.grid, fitting))
    for number, (setup, by_all) in enumerate(setups, 1):
        words = _words(setup)
        say(f"looking at setting {number} of {len(setups)}: {words}")
        try:
            found = _runs_of(sweep, setup)
        except MixcoreError as error:
            if by_all:
                refused[words] = str(error)
                continue
            for fault in getattr(error, "faults", ()) or (str(error),):
                faults.setdefault(fault, []).append(words)
        else:
            runs += found
    if faults:
        raise _refusal(sweep, faults, len(setups))
    return Plan(dir=sweep.dir, runs=tuple(runs), refused=refused)


def _setups(grid: Mapping[str, Sequence[Any]], fitting: Sequence[str]) -> Iterator[tuple[Setup, bool]]:
    """Every combination, and whether it is there because of "all": then it may be left out.

    The default mixer, which fits everywhere, may not: what is wrong with it is wrong with the sweep.
    """
    listed = set(grid.get(MIXER, ())) | {ROLES["mix"].default}
    values = {
        key: tuple(dict.fromkeys(name for value in given for name in (fitting if value == ALL else (value,))))
        if key == MIXER
        else given
        for key, given in grid.items()
    }
    for combination in itertools.product(*values.values()):
        setup = dict(zip(values, combination, strict=True))
        yield setup, MIXER in setup and setup[MIXER] not in listed


def _runs_of(sweep: SweepFile, setup: Setup) -> list[PlannedRun]:
    """The runs of one setting, one per seed; the first is tried where none of them has begun."""
    runs = [_run_of(sweep, setup, seed) for seed in sweep.seeds]
    if not any(run.folder.started() for run in runs):
        loaded = runs[0].loaded
        with numerics(loaded.config.train):
            try_run(loaded.config, register_selection(loaded.selection))
    return runs


def _run_of(sweep: SweepFile, setup: Setup, seed: int) -> PlannedRun:
    folder = sweep.dir / folder_name((), [*_texts(setup), f"seed={seed}"])
    settings = [
        *sweep.common,
        *(sweep.setting(key, value) for key, value in setup.items()),
        Setting("seed", seed, sweep.layer.place(("seeds",))),
        Setting("run.dir", str(folder), sweep.layer.place(("dir",))),
    ]
    faults: list[Any] = []
    layer = settings_layer(settings, "sweep file", faults)
    if faults:
        raise ConfigError("; ".join(fault.message for fault in faults))
    loaded = load_layers([*sweep.layers, layer], sweep.base)
    return PlannedRun(settings=setup, seed=seed, loaded=loaded, folder=RunFolder(folder))


def _texts(setup: Setup) -> list[str]:
    return [text for key, value in setup.items() for text in setting_texts({key: value})]


def _words(setup: Setup) -> str:
    return ", ".join(_texts(setup)) or "the base configuration"


def _refusal(sweep: SweepFile, faults: Mapping[str, Sequence[str]], setups: int) -> ConfigError:
    """Each fault once; with the settings that have it, unless all have."""

    def line(fault: str, words: Sequence[str]) -> str:
        if len(words) == setups:
            return fault
        others = f" and {len(words) - 3} more" if len(words) > 3 else ""
        return f"{fault} (with {'; '.join(words[:3])}{others})"

    lines = [line(fault, words) for fault, words in faults.items()]
    if len(lines) == 1:
        return ConfigError(f"{sweep.path}: {lines[0]}")
    return ConfigError("\n  ".join((f"{len(lines)} faults in the runs of {sweep.path}:", *lines)))
