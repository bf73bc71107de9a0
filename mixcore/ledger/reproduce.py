"""What reproducing a claim takes: its experiment once per seed, each an ordinary run in a folder of its own."""

from __future__ import annotations

import shlex
from collections.abc import Collection, Sequence
from pathlib import Path

import attrs

from mixcore.config.faults import Fault, raise_faults
from mixcore.config.faults import Path as KeyPath
from mixcore.config.layers import Layer, overrides_layer
from mixcore.config.run_dir import default_dir
from mixcore.ledger.claims import Claim
from mixcore.ledger.named import find_configuration
from mixcore.run.folder import RunFolder, differences
from mixcore.run.resolve import Loaded

__all__ = ["Trial", "command_of", "load_experiment", "trials"]


@attrs.frozen(kw_only=True)
class Trial:
    """One seed of a reproduction."""

    loaded: Loaded
    overrides: tuple[str, ...]
    """What `mixcore run <experiment> --set ...` needs to be told for the same run."""

    @property
    def seed(self) -> int:
        """Its key of every random draw."""
        return self.loaded.config.seed

    @property
    def folder(self) -> RunFolder:
        """Where it is trained."""
        return RunFolder(Path(self.loaded.resolved["run"]["dir"]))


def load_experiment(name: str, overrides: Sequence[str] = ()) -> Loaded:
    """The experiment of this name with `overrides` (`key.path=value`) on top, checked. Raises as `load_config` does."""
    return find_configuration(name, overrides).load()


def trials(claim: Claim, seeds: int, epochs_scale: float = 1.0, overrides: Sequence[str] = ()) -> list[Trial]:
    """The runs that reproduce `claim`: seeds one after another, from the configuration's own on.

    With an `epochs_scale` below 1 the schedule and its warm-up are that much shorter. Each lies in
    `runs/reproduce/<claim>/seed-<n>`; what was overridden is part of the name, so that nothing else is in its way.
    """
    given = load_experiment(claim.experiment, overrides)
    overrides = (*overrides, *_shortened(given, epochs_scale))
    base = given.config.run.dir if _names_dir(overrides) else _base(claim, overrides, given.places)
    found = []
    for seed in range(given.config.seed, given.config.seed + seeds):
        own = (*overrides, f"seed={seed}", f"run.dir={base}/seed-{seed}")
        found.append(Trial(loaded=load_experiment(claim.experiment, own), overrides=own))
    return found


def command_of(
    claim: Claim, seeds: int, epochs_scale: float, overrides: Sequence[str], places: Collection[KeyPath]
) -> str:
    """The command that reproduces the claim so, without what says where things lie on this machine."""
    told = [override for override in overrides if differences(_layer([override]).tree, {}, _anywhere(places))]
    settings = [part for override in told for part in ("--set", override)]
    scale = [] if epochs_scale == 1 else ["--epochs-scale", f"{epochs_scale:g}"]
    return shlex.join(["mixcore", "reproduce", claim.id, "--seeds", str(seeds), *scale, *settings])


def _shortened(loaded: Loaded, scale: float) -> list[str]:
    if scale == 1:
        return []
    schedule = loaded.config.schedule
    return [
        f"schedule.epochs={max(1, round(schedule.epochs * scale))}",
        f"schedule.warmup_epochs={round(schedule.warmup_epochs * scale)}",
    ]


def _names_dir(overrides: Sequence[str]) -> bool:
    return "dir" in _layer(overrides).tree.get("run", {})


def _base(claim: Claim, overrides: Sequence[str], places: Collection[KeyPath]) -> str:
    """The folder of the seeds; what changes no number is no part of its name, nor is the first seed."""
    left_out = _anywhere(places) | {("seed",)}
    changed = {found.key: found.there for found in differences(_layer(overrides).tree, {}, left_out)}
    return default_dir(claim.id, changed).replace("runs/", "runs/reproduce/", 1)


def _anywhere(places: Collection[KeyPath]) -> set[KeyPath]:
    """The places, also as `--set` names them where a role has a single table: `mix.root` for the first [[mix]]."""
    return {*places, *(tuple(part for part in path if not isinstance(part, int)) for path in places)}


def _layer(overrides: Sequence[str]) -> Layer:
    faults: list[Fault] = []
    layer = overrides_layer(overrides, faults)
    if faults:
        raise_faults(faults, "--set")
    return layer
