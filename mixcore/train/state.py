"""What training changes, gathered in one object: what a checkpoint holds and a resumed run starts from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs
import torch

from mixcore.errors import CheckpointError, MixcoreError, NonFiniteLossError
from mixcore.step.step import Predictor, TrainingStep
from mixcore.train.agreement import Processes
from mixcore.train.ema import Ema
from mixcore.train.totals import Totals

__all__ = ["TrainingState", "named_predictors"]

_OTHER_DATA = "Put the old set back, or start a new run in a folder of its own: --set run.dir=PATH"


@attrs.define(eq=False, kw_only=True)
class TrainingState:
    """Modules, optimizer and place of a run. `epoch` and `iteration` count those that are finished."""

    step: TrainingStep
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    ema: Ema | None
    totals: Totals
    epochs: int
    iterations_per_epoch: int
    accumulate: int
    epoch: int = 0
    iteration: int = 0
    updates: int = 0
    """Optimizer steps that took place; a loss scaler may skip some."""
    best: dict[str, float] | None = None
    """`epoch` (from 1) and `value` of the best finite validation value so far."""
    records: list[str] = attrs.field(factory=list)
    """The lines of metrics.jsonl, one for every finished epoch."""
    data: dict[str, dict[str, Any]] = attrs.field(factory=dict)
    """What the training and the validation set are told by; see mixcore/data/fingerprint.py."""
    seconds: dict[str, float] = attrs.field(factory=lambda: {"train": 0.0, "evaluate": 0.0})
    """Time spent in this and all earlier processes of the run."""

    @property
    def iterations(self) -> int:
        """Iterations of the whole run."""
        return self.epochs * self.iterations_per_epoch

    @property
    def between_optimizer_steps(self) -> bool:
        """Whether no gradient is pending: the only moments at which the state may be saved."""
        return self.iteration % self.accumulate == 0 or self.iteration == self.iterations

    @property
    def epochs_without_checkpoint(self) -> int:
        """Epochs that may end before the first checkpoint of a run is whole: it waits for an optimizer step."""
        first = -(-self.iterations_per_epoch // self.accumulate) * self.accumulate
        return min(first, self.iterations) // self.iterations_per_epoch

    def networks(self) -> dict[str, Predictor]:
        """Everything that is evaluated, by predictor name: those of the step, and `ema`."""
        return named_predictors(self.step, self.ema)

    def saved(self, processes: Processes) -> dict[str, Any]:
        """The state as tensors and plain types. All processes call it; call `totals.read()` before.

        Raises NonFiniteLossError where a weight is NaN or infinite: such a state is worth no checkpoint.
        """
        self._check_weights()
        return {
            "epoch": self.epoch,
            "iteration": self.iteration,
            "iterations_per_epoch": self.iterations_per_epoch,
            "updates": self.updates,
            "best": self.best,
            "seconds": dict(self.seconds),
            "records": list(self.records),
            "data": self.data,
            "totals": processes.gather(self.totals.state()),
            "step": self.step.saved_state(),
            "ema": self.ema.state_dict() if self.ema else None,
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
        }

    def _check_weights(self) -> None:
        weights = [p for group in self.optimizer.param_groups for p in group["params"]]
        finite = torch.stack([p.detach().isfinite().all() for p in weights])
        if not bool(finite.all()):
            raise NonFiniteLossError(
                f"a weight became NaN or infinite at epoch {self.iteration // self.iterations_per_epoch + 1}, "
                f"iteration {self.iteration}, though every loss was finite. Checkpoints are as they were. Try a lower "
                "optimizer.lr, --set train.clip_grad=1.0, or --set train.precision=fp32"
            )

    def check_data(self, state: Mapping[str, Any]) -> None:
        """Refuse to go on from `state` with other data sets than it was trained on. Raises CheckpointError."""
        for name, found in state["data"].items():
            now = self.data.get(name, found)
            if now != found:
                counts = f"it had {found['samples']} images and has {now['samples']} now"
                same = f"it has {now['samples']} images as before, but other ones or other labels"
                raise CheckpointError(
                    f"the {name} set has changed since the checkpoint was written: "
                    f"{same if now['samples'] == found['samples'] else counts}. {_OTHER_DATA}"
                )
        if state["iterations_per_epoch"] != self.iterations_per_epoch:
            raise CheckpointError(
                f"the checkpoint was written with {state['iterations_per_epoch']} iterations per epoch, and now there "
                f"are {self.iterations_per_epoch}. {_OTHER_DATA}"
            )

    def load(self, state: Mapping[str, Any], processes: Processes) -> None:
        """Continue from what `saved` gave, on this or another number of processes. Raises CheckpointError."""
        begun = state["epoch"] * self.iterations_per_epoch
        if not begun <= state["iteration"] <= min(begun + self.iterations_per_epoch, self.iterations):
            raise CheckpointError(
                f"the checkpoint says epoch {state['epoch']}, iteration {state['iteration']}, which is no place in a "
                f"run of {self.epochs} epochs of {self.iterations_per_epoch} iterations"
            )
        self.step.load_saved_state(state["step"])
        try:
            if self.ema:
                self.ema.load_state_dict(state["ema"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.scaler.load_state_dict(state["scaler"])
        except MixcoreError:  # a signal that arrived meanwhile
            raise
        except Exception as error:  # torch and timm raise whatever a missing or wrong entry leads to
            raise CheckpointError(
                "the saved optimizer, loss scaler or averaged weights do not fit this network: "
                f"{' '.join(str(error).split())[:200]}"
            ) from error
        self.epoch, self.iteration, self.updates = state["epoch"], state["iteration"], state["updates"]
        self.best, self.seconds, self.records = state["best"], dict(state["seconds"]), list(state["records"])
        self._load_totals(state["totals"], processes)

    def _load_totals(self, totals: list[dict[str, Any]], processes: Processes) -> None:
        """Each process goes on with its own sums, or with a share of them where the number of processes changed."""
        own = totals[processes.rank :: processes.world]
        self.totals.clear()
        for one in own:
            self.totals.merge(one)


def named_predictors(step: TrainingStep, ema: Ema | None) -> dict[str, Predictor]:
    """What can be evaluated of a run: the step's own predictors, and `ema` where weights are averaged."""
    averaged: dict[str, Predictor] = {"ema": (ema.module, None)} if ema else {}
    return {**step.predictors(), **averaged}
