"""Published benchmarks by name: `cifar100.resnet18.mixup.ep200` is a configuration, composed of a benchmark's files.

A set of benchmarks is a package that a distribution names by an entry point of the group `mixcore.benchmarks`. Each of
its folders is a benchmark, unless the name begins with an underscore: a configuration file per backbone, which mixes
nothing, and `methods.toml` with a partial configuration per method, and exceptions.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import attrs

from mixcore.config.faults import Fault, dotted, raise_faults
from mixcore.config.faults import Path as Location
from mixcore.config.layers import Layer, merge_layers, read_layers
from mixcore.config.structure import structure
from mixcore.entry_points import broken, entries_in, load_object
from mixcore.errors import BrokenPluginError, ConfigError
from mixcore.words import cut, suggestion

__all__ = ["GROUP", "About", "Benchmark", "Experiment", "benchmark", "benchmarks", "experiment", "list_experiments"]

GROUP = "mixcore.benchmarks"
"""Entry points of packages that hold folders of benchmarks; the entry points' own names say nothing."""
METHODS = "methods.toml"
FORM = "<benchmark>.<backbone>.<method>.ep<epochs>"
"""Name of an experiment; the last part may be left out."""
_ABOUT = "benchmark"
_EXCEPTION = "exception"
_LIMITS = ("backbones", "epochs")
"""Keys of a method's table that say for which experiments the method is known."""

T = TypeVar("T")


@attrs.frozen(kw_only=True)
class About:
    """The table [benchmark] of a `methods.toml`."""

    title: str
    """What people call the benchmark."""
    needs: str
    """Data and weights that have to be fetched first."""
    epochs: tuple[int, ...]
    """Lengths of the published runs."""
    backbone_epochs: Mapping[str, tuple[int, ...]] = attrs.field(factory=dict)
    """The same of backbones that have others."""


@attrs.frozen(kw_only=True)
class Where:
    """Experiments of a benchmark for which something holds; what is not given holds for all."""

    methods: tuple[str, ...] | None = None
    """Names of methods."""
    backbones: tuple[str, ...] | None = None
    """Names of backbones."""
    epochs: tuple[int, ...] | None = None
    """Lengths of runs."""

    def holds(self, backbone: str, method: str, epochs: int) -> bool:
        """Whether it does for this experiment."""
        pairs = ((self.backbones, backbone), (self.methods, method), (self.epochs, epochs))
        return all(allowed is None or value in allowed for allowed, value in pairs)


@attrs.frozen(kw_only=True)
class Experiment:
    """One published setting: a configuration of which only the seed is still open."""

    benchmark: str
    backbone: str
    method: str
    epochs: int
    layers: tuple[Layer, ...] = attrs.field(eq=False, repr=False)
    """Layers of its configuration, the most basic first."""

    @property
    def id(self) -> str:
        """Its name, such as `cifar100.resnet18.mixup.ep200`."""
        return f"{self.benchmark}.{self.backbone}.{self.method}.ep{self.epochs}"

    @property
    def tree(self) -> dict[str, Any]:
        """Its configuration as nested tables, `extends` resolved; what is left to defaults is not in it."""
        return _merged(self.layers, self.id).tree


@attrs.frozen(kw_only=True, eq=False)
class Benchmark:
    """One benchmark, its files read."""

    name: str
    about: About
    backbones: Mapping[str, tuple[Layer, ...]] = attrs.field(repr=False)
    """Layers of each backbone's file, by the file's name."""
    methods: Mapping[str, Where] = attrs.field(repr=False)
    """Methods, and the experiments in which each is known."""
    parts: tuple[tuple[Where, Layer], ...] = attrs.field(repr=False)
    """What methods and exceptions say and where it holds, in the order in which it goes on top of a backbone's file."""

    def epochs_of(self, backbone: str, method: str) -> tuple[int, ...]:
        """Lengths of the published runs of a backbone with a method; none where the two do not go together."""
        lengths = self.about.backbone_epochs.get(backbone, self.about.epochs)
        return tuple(epochs for epochs in lengths if self.methods[method].holds(backbone, method, epochs))

    def compose(self, backbone: str, method: str, epochs: int) -> Experiment:
        """The experiment of parts that the benchmark has; :func:`experiment` checks that it has them."""
        parts = [layer for where, layer in self.parts if where.holds(backbone, method, epochs)]
        length = Layer({"schedule": {"epochs": epochs}}, {}, f"ep{epochs}")
        layers = (*self.backbones[backbone], *parts, length)
        return Experiment(benchmark=self.name, backbone=backbone, method=method, epochs=epochs, layers=layers)

    def experiments(self) -> Iterator[Experiment]:
        """All of them, backbone by backbone."""
        for backbone in self.backbones:
            for method in self.methods:
                for epochs in self.epochs_of(backbone, method):
                    yield self.compose(backbone, method, epochs)


def benchmarks() -> list[str]:
    """Names of the benchmarks that installed distributions ship, in alphabetical order."""
    return sorted(_folders()[0])


def benchmark(name: str) -> Benchmark:
    """The benchmark of this name. ConfigError where there is none, with the nearest one, or for faults of its files."""
    found, faults = _folders()
    if name not in found:
        more = "".join(f"; {fault}" for fault in faults)
        raise ConfigError(f"there is no benchmark {_choice(name, sorted(found))}{more}")
    if len(found[name]) > 1:
        places = " and ".join(map(str, found[name]))
        raise ConfigError(f"two distributions ship the benchmark {name}, {places}; remove one of them")
    return _read(found[name][0])


def list_experiments() -> list[Experiment]:
    """Every experiment of every installed benchmark."""
    return [found for name in benchmarks() for found in benchmark(name).experiments()]


def experiment(name: str) -> Experiment:
    """The experiment of the name `<benchmark>.<backbone>.<method>.ep<epochs>`.

    Without the last part its length is the one in the backbone's file, or else the first that was published.
    ConfigError, with the nearest names, where the name has another form or a part that is not known.
    """
    parts = name.split(".")
    if not 3 <= len(parts) <= 4 or not all(parts):
        benchmark(parts[0])
        raise ConfigError(f"{cut(name)} is no name of an experiment; expected {FORM}")
    found = benchmark(parts[0])
    backbone, method = parts[1:3]
    if backbone not in found.backbones:
        raise ConfigError(f"{cut(name)}: {found.name} has no backbone {_choice(backbone, found.backbones)}")
    known = [method for method in found.methods if found.epochs_of(backbone, method)]
    if method not in known:
        raise ConfigError(f"{cut(name)}: {found.name} with {backbone} has no method {_choice(method, known)}")
    published = found.epochs_of(backbone, method)
    if len(parts) == 3:
        usual = _merged(found.backbones[backbone], name).tree.get("schedule", {}).get("epochs")
        return found.compose(backbone, method, usual if usual in published else published[0])
    lengths = [f"ep{epochs}" for epochs in published]
    if parts[3] not in lengths:
        raise ConfigError(
            f"{cut(name)}: this was published with {', '.join(lengths)}, found {cut(parts[3])}; for another length add "
            "--set schedule.epochs=N to one of these"
        )
    return found.compose(backbone, method, int(parts[3].removeprefix("ep")))


def _choice(name: str, known: Collection[str]) -> str:
    return f'"{cut(name)}"; known are {", ".join(known) or "none"}{suggestion(name, known)}'


def _folders() -> tuple[dict[str, list[Path]], list[str]]:
    """Benchmarks by name, each with the folders of that name, and what packages of benchmarks could not be had."""
    found: dict[str, list[Path]] = {}
    faults = []
    for entry in entries_in(GROUP):
        try:
            places = getattr(load_object(entry), "__path__", None)
            if not places:
                raise broken(entry, "expected a package, a folder of benchmarks")
        except BrokenPluginError as error:
            faults.append(str(error))
            continue
        for path in sorted(Path(place) for place in places):
            for file in sorted(path.glob(f"[!_]*/{METHODS}")):
                found.setdefault(file.parent.name, []).append(file.parent)
    return found, faults


@cache  # the files of an installed distribution stay as they are
def _read(folder: Path) -> Benchmark:
    source = str(folder / METHODS)
    layers = _layers(folder / METHODS)
    limits: dict[str, dict[str, Any]] = {}
    parts: list[tuple[Where, Layer]] = []
    for layer in layers:
        for name in (key for key in layer.tree if key not in (_ABOUT, _EXCEPTION)):
            part = _table(layer, (name,))
            limits.setdefault(name, {}).update({key: part.tree.pop(key) for key in _LIMITS if key in part.tree})
            parts.append((Where(methods=(name,)), part))
        parts += [_exception(layer, index) for index, _ in enumerate(layer.tree.get(_EXCEPTION, []))]
    about = _merged([_table(layer, (_ABOUT,)) for layer in layers if _ABOUT in layer.tree], source)
    return Benchmark(
        name=folder.name,
        about=_structured(About, about),
        backbones={path.stem: _layers(path) for path in sorted(folder.glob("*.toml")) if path.name != METHODS},
        methods={name: _structured(Where, Layer(tree, {}, f"{source}, {name}")) for name, tree in limits.items()},
        parts=tuple(parts),
    )


def _layers(path: Path) -> tuple[Layer, ...]:
    faults: list[Fault] = []
    layers = read_layers(path, faults)
    if faults:
        raise_faults(faults, str(path))
    return tuple(layers)


def _table(layer: Layer, path: Location) -> Layer:
    part = layer.part(path)
    if not isinstance(part.tree, Mapping):
        raise ConfigError(f"{layer.place(path)}: {dotted(path)}: expected a table")
    return part


def _exception(layer: Layer, index: int) -> tuple[Where, Layer]:
    """Where an exception holds, and what it sets."""
    part = _table(layer, (_EXCEPTION, index))
    if "set" not in part.tree:
        raise ConfigError(f"{layer.place((_EXCEPTION, index))}: an exception without set = {{ ... }} changes nothing")
    changes = _table(part, ("set",))
    del part.tree["set"]
    return _structured(Where, part), changes


def _structured(cls: type[T], layer: Layer) -> T:
    found, faults = structure(cls, layer.tree)
    if found is None:
        raise_faults(faults, layer.source, layer.place)
    return found


def _merged(layers: Sequence[Layer], source: str) -> Layer:
    faults: list[Fault] = []
    merged = merge_layers(layers, faults, source)
    if faults:
        raise_faults(faults, source, merged.place)
    return merged
