"""The iterations of an epoch: forward, backward, and every few of them an optimizer step."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import attrs
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from mixcore.config.schema import TrainConfig
from mixcore.data.loader import Loader
from mixcore.data.randomness import seed_generators
from mixcore.logs.progress import Progress
from mixcore.rng import keyed_seed
from mixcore.train.distributed import Agreement, Processes
from mixcore.train.iteration import Report
from mixcore.train.schedule import Schedule
from mixcore.train.state import TrainingState

__all__ = ["Loop"]


@attrs.define(eq=False, kw_only=True)
class Loop:
    """Trains a state epoch by epoch. On CUDA no iteration waits for the device but every `train.log_every`-th."""

    state: TrainingState
    module: nn.Module
    """The step, or DistributedDataParallel around it."""
    schedule: Schedule
    loader: Loader
    config: TrainConfig
    seed: int
    processes: Processes
    progress: Progress
    wanted_stop: Callable[[], int]
    """0, or the exit code that a signal asked this process for."""
    save: Callable[[], None]
    """Writes a checkpoint; called on all processes, between optimizer steps."""
    save_due: bool = False
    """A checkpoint is wanted as soon as no gradient is pending."""
    _agreement: Agreement = attrs.field(init=False)
    _stop: int = attrs.field(init=False, default=0)
    _parameters: list[nn.Parameter] = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self._agreement = Agreement(self.processes)
        self._parameters = [p for group in self.state.optimizer.param_groups for p in group["params"]]

    def run_epoch(self, epoch: int, watch: Callable[[Report], None]) -> int:
        """Train the rest of `epoch` (from 0); 0, or the exit code to stop with, for which a checkpoint was written.

        `watch` gets the report of the first iteration. Raises NonFiniteLossError; the checkpoints are then as before.
        """
        state = self.state
        start = state.iteration - epoch * state.iterations_per_epoch
        self.progress.start_epoch(epoch, state.iterations_per_epoch, start)
        began = time.monotonic()
        for images, labels in self.loader.epoch(epoch, start):
            watch(self.iterate(epoch, images, labels))  # kept no longer: it holds a batch of images
            watch = _ignore
            if self._must_leave(began):
                return self._stop
        state.totals.read()
        state.seconds["train"] += time.monotonic() - began
        return 0

    def iterate(self, epoch: int, images: Tensor, labels: Tensor) -> Report:
        """One iteration on a batch of `epoch` (from 0), with its optimizer step where one is due."""
        state, iteration = self.state, self.state.iteration
        self._seed_global_generators(iteration)
        self.schedule.set(iteration)
        logging = iteration % self.config.log_every == 0
        steps = (iteration + 1) % self.config.accumulate == 0 or iteration + 1 == state.iterations
        with self._gradients_shared(steps):
            loss, report = self.module(images, labels, epoch=epoch, iteration=iteration, logging=logging)
            self._note(epoch, iteration, report, logging)
            scaled = loss if self.config.accumulate == 1 else loss / self.config.accumulate
            if iteration % self.config.accumulate == 0:
                # Only now: gradients that live through the forward keep malloc from handing its pages back to the
                # system between steps, which costs a CPU run a tenth of its time in page faults.
                state.optimizer.zero_grad(set_to_none=True)
            state.scaler.scale(scaled).backward()
        if steps:
            self._optimizer_step()
        state.iteration += 1
        read = state.totals.latest if logging or not images.is_cuda else None
        self.progress.advance(images.shape[0] * self.processes.world, read)
        return report

    def _seed_global_generators(self, iteration: int) -> None:
        """Dropout and drop path draw from the global generators: seeded here, a resumed run draws the same."""
        seed = keyed_seed(self.seed, "global", iteration, self.processes.rank)
        seed_generators(seed)
        if self.processes.device.type == "cuda":
            torch.cuda.manual_seed(seed)

    def _gradients_shared(self, steps: bool) -> AbstractContextManager[Any]:
        """Processes exchange gradients only where an optimizer step follows."""
        if steps or not isinstance(self.module, DistributedDataParallel):
            return nullcontext()
        return self.module.no_sync()

    def _note(self, epoch: int, iteration: int, report: Report, logging: bool) -> None:
        """Keep the iteration's numbers; read them at once on CPU, where nothing has to be waited for."""
        more: dict[str, Tensor | float] = {}
        if len(report.losses) > 1:
            more.update({f"train/loss/{name}": value for name, value in report.losses.items()})
        more.update(report.scalars)
        self.state.totals.add(epoch, iteration, report.loss, report.lam, report.mixer, more)
        if logging or not report.loss.is_cuda:
            self.state.totals.read()

    def _optimizer_step(self) -> None:
        state, scaler = self.state, self.state.scaler
        if self.config.clip_grad is not None:
            scaler.unscale_(state.optimizer)
            nn.utils.clip_grad_norm_(self._parameters, self.config.clip_grad)
        scale = scaler.get_scale() if scaler.is_enabled() else 1.0
        scaler.step(state.optimizer)
        scaler.update()
        if scaler.is_enabled() and scaler.get_scale() < scale:
            return  # the scaled gradient overflowed, so the scaler left the weights alone
        state.updates += 1
        state.step.after_step()
        if state.ema is not None:
            state.ema.update(state.step.model, state.updates)

    def _must_leave(self, began: float) -> bool:
        """Write a checkpoint where one is due or all processes agree to stop; whether to stop."""
        self._stop = max(self._stop, self._agreement(self.wanted_stop()))
        if (self._stop or self.save_due) and self.state.between_optimizer_steps:
            self.state.totals.read()
            if self._stop:
                self.state.seconds["train"] += time.monotonic() - began
            self.save()
            self.save_due = False
            return bool(self._stop)
        return False

    def finish(self) -> None:
        """Nobody calls the loop again: end what the processes still have under way."""
        self._agreement.finish()


def _ignore(report: Report) -> None:
    """Only the first report of an epoch is watched."""
