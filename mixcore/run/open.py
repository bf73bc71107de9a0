"""A trained run opened again from its folder: networks, sets and predictors, with nothing that trains."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import torch
from torch import nn
from torch.utils.data import Dataset

from mixcore.config.schema import RunConfig
from mixcore.data.loader import Loader
from mixcore.data.named import VALIDATION, evaluation_sets, for_evaluation
from mixcore.discovery.manager import register_selection
from mixcore.discovery.plugins import Plugins
from mixcore.errors import CheckpointError, DataError, MixcoreError, RunFolderError
from mixcore.evaluate.evaluate import Predictors, evaluate
from mixcore.evaluate.metrics import default_metrics
from mixcore.run import saved
from mixcore.run.checkpoint import read_checkpoint
from mixcore.run.folder import RunFolder
from mixcore.run.numerics import numerics
from mixcore.run.place import Place
from mixcore.run.processes import joined
from mixcore.run.resolve import Loaded, load_config
from mixcore.run.session import build_backbone, build_data, build_networks, choose_predictor, evaluation_loader
from mixcore.step.step import TrainingStep
from mixcore.train.agreement import Processes
from mixcore.train.ema import Ema
from mixcore.train.state import named_predictors
from mixcore.types import Data, Metric, Resident, Task

__all__ = ["LoadedRun", "SavedRun", "load_run", "read_run"]


@attrs.frozen(eq=False, kw_only=True)
class SavedRun:
    """What lies in a run folder: the configuration and one checkpoint, nothing built of them."""

    configuration: Loaded
    checkpoint: Path
    state: dict[str, Any]
    """The content of the checkpoint, on the CPU."""


@attrs.frozen(eq=False, kw_only=True)
class LoadedRun:
    """A trained run, ready to be looked at. Networks are on the device, in eval mode."""

    folder: Path
    config: RunConfig
    checkpoint: Path
    """The file that the weights came from."""
    epoch: int
    """Epochs that were finished when it was written."""
    task: Task
    model: nn.Module
    """The trained network."""
    predictors: Predictors
    """Name -> network and head (None: the network's own): `model`, `ema` where the run averages, and plugins'."""
    predictor: str
    """Name of the predictor whose value is the run's."""
    resolved: Mapping[str, Any]
    """The configuration as a plain TOML tree."""
    digest: str
    """Hash of everything in the configuration that determines the numbers."""
    overrides: tuple[str, ...] = ()
    """Keys of the configuration that were said otherwise than in the folder."""
    step: TrainingStep
    """The training step, parts and mixers in it, in eval mode."""
    _data: Data
    _processes: Processes
    _plugins: Plugins

    @property
    def device(self) -> torch.device:
        """Where networks and batches are."""
        return self._processes.device

    @property
    def sets(self) -> Mapping[str, Dataset[Any] | Resident]:
        """The evaluation sets by name: "val", and those that the data plugin gives beside it."""
        return evaluation_sets(self._data)

    def bare_network(self) -> nn.Module:
        """A network of its own like the trained one, on the CPU in eval mode: initial weights, nothing hooked to it."""
        return build_backbone(self.config, self._plugins, self.task, torch.device("cpu")).eval()

    def loader(self, name: str = VALIDATION, data: Data | None = None) -> Loader:
        """Batches of the set `name`: `for images, labels in run.loader("val").epoch(0)`.

        `data` are other sets than the run's own.

        Images are float32 [N,C,H,W], normalised, on the device, in the order of the set and each once. Raises
        ConfigError naming the sets, DataError for one that does not fit the task.
        """
        data = for_evaluation(self._data if data is None else data, name)
        try:
            return evaluation_loader(self.config, data, self._processes)
        except DataError as error:
            error.add_note(f"in the evaluation set {name!r}, which is read as a validation set")
            raise

    def evaluate(
        self, name: str = VALIDATION, *, metrics: Mapping[str, Metric] | None = None
    ) -> dict[str, dict[str, float]]:
        """Per predictor its metrics on the set `name`, by default those that the run records, in the run's precision.

        `metrics` are objects with `update(logits, labels)` and `compute()`, such as torchmetrics' ones.
        """
        with numerics(self.config.train):
            return evaluate(
                self.predictors,
                self.loader(name),
                task=self.task,
                device=self.device,
                precision=self.config.train.precision,
                metrics=default_metrics(self.task, self.device, self._plugins.extras) if metrics is None else metrics,
            )


def load_run(
    folder: Path | str, *, checkpoint: str = "best", device: str | None = None, overrides: Sequence[str] = ()
) -> LoadedRun:
    """Open the run in `folder` with the weights of a `checkpoint`: "best", "last", "previous", or a file.

    `device` is "auto", "cpu" or "cuda", by default what the run's configuration says; `overrides` change other keys of
    it (`data.root=elsewhere`). No optimizer, schedule or training loader is made, and the training set is not read but
    for what its plugin does to give the others. Generators stay as they are. Raises RunFolderError for what is no run
    folder; CheckpointError for weights that are missing, damaged or of another network; ConfigError, PluginError and
    DataError for a configuration that cannot be had again, as where a plugin is no longer installed.
    """
    folder = Path(folder)
    wanted = overrides if device is None else (*overrides, f'run.device="{device}"')
    found = read_run(folder, checkpoint, wanted)
    config = found.configuration.config
    config = attrs.evolve(config, train=attrs.evolve(config.train, compile=False, checkpoint=False))
    plugins = register_selection(found.configuration.selection)
    with numerics(config.train), joined(config.run, Place()) as processes:
        data = build_data(plugins, processes)
        # nothing is trained, so how long the run was does not matter: one iteration stands for all
        step, ema = build_networks(config, plugins, data.task, processes, iterations=1)
        step.load_saved_state(found.state["step"])
        if not _take_average(ema, found):
            ema = None
        step.eval()
        predictors = named_predictors(step, ema)
        return LoadedRun(
            folder=folder,
            config=config,
            digest=found.configuration.digest,
            overrides=tuple(wanted),
            step=step,
            checkpoint=found.checkpoint,
            epoch=found.state["epoch"],
            task=data.task,
            model=step.model,
            predictors=predictors,
            predictor=choose_predictor(config, plugins, predictors),
            resolved=found.configuration.resolved,
            data=data,
            processes=processes,
            plugins=plugins,
        )


def read_run(folder: Path, checkpoint: str = "best", overrides: Sequence[str] = ()) -> SavedRun:
    """The configuration in `folder` with `overrides` on top, and the checkpoint of that name, read and checked."""
    run = RunFolder(folder)
    if not run.config.is_file():
        raise RunFolderError(
            f"{folder} is no run folder: it has no config.toml. Name the folder that mixcore run wrote, such as "
            "runs/quickstart"
        )
    path = saved.find(run.checkpoints, checkpoint)
    configuration = load_config(run.config, overrides)
    return SavedRun(configuration=configuration, checkpoint=path, state=_read(run, path))


def _read(run: RunFolder, path: Path) -> dict[str, Any]:
    try:
        return read_checkpoint(path)
    except CheckpointError as error:
        others = [found.name for found in saved.saved(run.checkpoints) if found != path]
        advice = f". {run.path} has others: {', '.join(others)}" if others else ""
        raise CheckpointError(f"{error}{advice}") from error


def _take_average(ema: Ema | None, found: SavedRun) -> bool:
    """Load the averaged weights; whether there are any. CheckpointError where they do not fit."""
    if ema is None or found.state["ema"] is None:
        return False
    try:
        ema.load_state_dict(found.state["ema"])
    except MixcoreError:  # a signal that arrived meanwhile
        raise
    except Exception as error:  # torch and timm raise whatever a missing or wrong entry leads to
        raise CheckpointError(
            f"the averaged weights in {found.checkpoint} do not fit this network: {' '.join(str(error).split())[:200]}"
        ) from error
    return True
