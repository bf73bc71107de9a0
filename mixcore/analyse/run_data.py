"""What a loaded run offers an analysis: its sets and others, its mixers and installed ones, its checkpoints."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from typing import Any

import attrs
import torch
from torch import Tensor, nn

from mixcore.analyse.kept import kept
from mixcore.config.faults import raise_faults
from mixcore.config.schema import DataTable
from mixcore.data.named import VALIDATION
from mixcore.discovery.catalogue import installed
from mixcore.discovery.manager import register_alone
from mixcore.discovery.select import select_one
from mixcore.discovery.survey import survey
from mixcore.errors import ConfigError, DataError
from mixcore.measure.passes import count_passes
from mixcore.mixers import Mixer, create_mixer
from mixcore.networks.interface import Passes
from mixcore.run import saved
from mixcore.run.open import LoadedRun, load_run
from mixcore.types import Batch, Mix, Targets

__all__ = ["LoadedRunData", "predictor_of"]

IMPORT_LIMIT = 300
"""Seconds that finding the mixers among the installed plugins may take."""
CHECKPOINTS = "checkpoints"
"""Folder of a run where they lie."""


class Headed(nn.Module):
    """A network with the head of a predictor in place of its own: images to logits."""

    def __init__(self, network: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.network, self.head = network, head

    def forward(self, images: Tensor) -> Tensor:
        """Logits [N,K] of images [N,C,H,W]."""
        passes = Passes(self.network)
        logits: Tensor = self.head(passes.head(passes.first(images), pre_logits=True))
        return logits


def predictor_of(run: LoadedRun, name: str | None) -> tuple[str, nn.Module]:
    """Name and network of a predictor, by default the one that picks the run's best checkpoint. ConfigError."""
    name = name or run.predictor
    if name not in run.predictors:
        raise ConfigError(f"the run has no predictor {name!r}; it has: {', '.join(run.predictors)}")
    network, head = run.predictors[name]
    return name, network if head is None else Headed(network, head)


@attrs.frozen(eq=False, kw_only=True)
class LoadedRunData:
    """The `RunData` of a run that was loaded from its folder, for one predictor and one set."""

    run: LoadedRun
    model: nn.Module
    predictor: str
    set_name: str
    _mixers: dict[str, Mixer] = attrs.field(factory=dict, init=False)

    @property
    def sets(self) -> tuple[str, ...]:
        """Names of the evaluation sets."""
        return tuple(self.run.sets)

    def batches(self, name: str | None = None) -> Iterator[Batch]:
        """Batches of a set of the run's data."""
        return self.run.loader(name or self.set_name).epoch(0)

    def other(self, name: str, options: Mapping[str, Any]) -> Iterator[Batch]:
        """Batches of the validation set of another data plugin."""
        found, faults = select_one("data", DataTable(name=name, options=dict(options)), ("data",), installed())
        if found is None:
            raise_faults(faults, f"the data {name}")
        data = register_alone(found.plugin, name, found.label).calls.build_data()
        own = self.run.task
        for what in ("in_channels", "image_size"):
            theirs, ours = getattr(data.task, what), getattr(own, what)
            if theirs != ours:
                raise DataError(
                    f"{name} has {what} {theirs}, and this run was trained on {ours}; give its options that make them "
                    "equal, or name other data"
                )
        task = attrs.evolve(data.task, mean=own.mean, std=own.std)
        return self.run.loader(VALIDATION, attrs.evolve(data, task=task, evaluation={})).epoch(0)

    @property
    def mixers(self) -> tuple[str, ...]:
        """Names of the installed mixers."""
        names = [name for name, entries in installed().items() if len(entries) == 1]
        return tuple(name for name, found in survey(names, limit=IMPORT_LIMIT).items() if found.role == "mix")

    def mix(self, images: Tensor, labels: Tensor, *, draw: int = 0, mixer: str | None = None) -> tuple[Mix, Targets]:
        """What the run's first mixer, or an installed one, makes of a batch."""
        if mixer is None:
            with kept(self.run.step):
                return self.run.step.mix_batch(Batch(images=images, labels=labels), mixer=0, iteration=draw)
        if mixer not in self._mixers:
            self._mixers[mixer] = create_mixer(mixer, num_classes=self.run.task.num_classes, model=self.run.model)
        with kept(self.run.model):
            mix = self._mixers[mixer](images, labels, iteration=draw)
        return mix, mix.targets(labels)

    @functools.cached_property
    def _counted(self) -> tuple[float, float]:
        step, batch = self.run.step, next(iter(self.batches(VALIDATION)))
        with kept(step), torch.enable_grad():
            found = count_passes(step.train(), batch.images[:8], batch.labels[:8], range(4))
        return found.forward, found.backward

    def passes(self) -> tuple[float, float]:
        """Forward and backward passes of one iteration of the run's training."""
        return self._counted

    def checkpoints(self) -> Iterator[tuple[int, Mapping[str, Tensor]]]:
        """Epoch and weights of the analysed network, of each checkpoint in the folder."""
        found: dict[int, Mapping[str, Tensor]] = {}
        for path in saved.saved(self.run.folder / CHECKPOINTS):
            run = load_run(self.run.folder, checkpoint=str(path), overrides=self.run.overrides)
            found.setdefault(run.epoch, predictor_of(run, self.predictor)[1].state_dict())
        return iter(sorted(found.items()))
