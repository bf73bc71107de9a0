"""A configuration by what people type: the path of a file, or the name of a published experiment."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import attrs

from mixcore.config.faults import Fault, raise_faults
from mixcore.config.layers import Layer, overrides_layer
from mixcore.errors import ConfigError
from mixcore.ledger.benchmarks import Experiment, experiment
from mixcore.run.resolve import Loaded, load_layers, read_config

__all__ = ["Found", "find_configuration", "named_experiment", "names_file"]


@attrs.frozen
class Found:
    """A configuration whose files and overrides were read, and not yet checked."""

    path: Path
    """Its file, or the experiment's whole name: what messages call it."""
    name: str
    """What its run folder and pictures are called by default."""
    layers: tuple[Layer, ...] = attrs.field(repr=False)
    """Its layers, the overrides last."""

    def load(self) -> Loaded:
        """The checked configuration; imports its plugins. Raises as `mixcore.run.resolve.load_config` does."""
        return load_layers(self.layers, self.path, self.name)


def names_file(name: str | Path, folder: Path = Path()) -> bool:
    """Whether `name` says a file, relative to `folder`: a path that exists, ends in `.toml` or has a separator in it.

    Anything else is the name of an experiment.
    """
    path = Path(name)
    return (folder / path).exists() or path.suffix == ".toml" or os.sep in str(path)


def named_experiment(name: str) -> Experiment:
    """The experiment that stands where a file could too. Raises ConfigError where there is neither."""
    try:
        return experiment(name)
    except ConfigError as error:
        raise ConfigError(f"there is no such file, and no such experiment either: {error}") from error


def find_configuration(name: str | Path, overrides: Sequence[str] = ()) -> Found:
    """The configuration that `name` says, with `overrides` (`key.path=value`) on top; no plugin is imported.

    What is a file and what a name: `names_file`. Raises ConfigError where there is no such thing, with the nearest
    name, or an override has no meaning.
    """
    path = Path(name)
    if names_file(path):
        return Found(path, path.stem, tuple(read_config(path, overrides)))
    found = named_experiment(str(name))
    faults: list[Fault] = []
    changes = overrides_layer(overrides, faults)
    if faults:
        raise_faults(faults, found.id)
    return Found(Path(found.id), found.id, (*found.layers, changes))
