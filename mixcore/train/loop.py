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
from mixcore.data.randomness import seed_everywhere
from mixcore.errors import NonFiniteLossError
from mixcore.logs.progress import Progress
from mixcore.rng import keyed_seed
from mixcore.step.iteration import Report
from mixcore.train.agreement import Agreement, Processes
from mixcore.train.guard import Guard
from mixcore.train.schedule import Schedule
from mixcore.train.state import TrainingState
from mixcore.types import Batch

__all__ = ["Loop", "frees_gradients_first", "reads_at_once"]


@attrs.define(eq=False, kw_only=True)
class Loop:
    """Trains a state epoch by epoch. On CUDA no iteration waits for the device but every `train.log_every`-th.

    A loss that is NaN or infinite updates no weight: on the CPU it is read at once, elsewhere a :class:`Guard` undoes
    what follows until it is read. With fp16 each optimizer step waits, because the scaler asks whether to skip it.
    """

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
    _guard: Guard | None = attrs.field(init=False)
    _skipped: int = attrs.field(init=False, default=0)
    """Optimizer steps that the loss scaler skipped in a row."""

    def __attrs_post_init__(self) -> None:
        self._agreement = Agreement(self.processes)
        self._guard = None if reads_at_once(self.processes.device) else Guard(self.state, self.processes)
        self._parameters = [p for group in self.state.optimizer.param_groups for p in group["params"]]

    def run_epoch(self, epoch: int, watch: Callable[[Report], None]) -> int:
        """Train the rest of `epoch` (from 0); 0, or the exit code to stop with, for which a checkpoint was written.

        `watch` gets the report of the first iteration. Raises NonFiniteLossError; the checkpoints are then as before.
        """
        state = self.state
        start = state.iteration - epoch * state.iterations_per_epoch
        self.progress.start_epoch(epoch, state.iterations_per_epoch, start)
        began = time.monotonic()
        for batch in self.loader.epoch(epoch, start):
            watch(self.iterate(epoch, batch))  # kept no longer: the report holds a batch of images
            watch = _ignore
            if self._must_leave(began):
                return self._stop
        self._read()
        state.seconds["train"] += time.monotonic() - began
        return 0

    def iterate(self, epoch: int, batch: Batch) -> Report:
        """One iteration on a batch of `epoch` (from 0), with its optimizer step where one is due."""
        state, iteration = self.state, self.state.iteration
        self._seed_global_generators(iteration)
        self.schedule.set(iteration)
        logging = iteration % self.config.log_every == 0
        begins = iteration % self.config.accumulate == 0
        steps = (iteration + 1) % self.config.accumulate == 0 or iteration + 1 == state.iterations
        state.step.use_scaler(state.scaler)
        first = frees_gradients_first(self.processes.device)
        if begins and first:
            state.optimizer.zero_grad(set_to_none=True)
        with self._gradients_shared(steps):
            loss, report = self.module(
                batch.images,
                batch.labels,
                index=batch.index,
                maps=batch.maps,
                augmented=batch.augmented,
                epoch=epoch,
                iteration=iteration,
                logging=logging,
            )
            self._note(epoch, iteration, report, logging)
            scaled = loss if self.config.accumulate == 1 else loss / self.config.accumulate
            if begins and not first:
                state.optimizer.zero_grad(set_to_none=True)
            state.scaler.scale(scaled).backward()
        if steps:
            self._optimizer_step()
        state.iteration += 1
        read = state.totals.latest if logging or reads_at_once(self.processes.device) else None
        self.progress.advance(batch.images.shape[0] * self.processes.world, read)
        return report

    def _seed_global_generators(self, iteration: int) -> None:
        """Dropout and drop path draw from the global generators: seeded here, a resumed run draws the same."""
        seed_everywhere(keyed_seed(self.seed, "global", iteration, self.processes.rank), self.processes.device)

    def _gradients_shared(self, steps: bool) -> AbstractContextManager[Any]:
        """Processes exchange gradients only where an optimizer step follows."""
        if steps or not isinstance(self.module, DistributedDataParallel):
            return nullcontext()
        return self.module.no_sync()

    def _note(self, epoch: int, iteration: int, report: Report, logging: bool) -> None:
        """Keep the iteration's numbers; read them at once where nothing has to be waited for."""
        more: dict[str, Tensor | float] = {f"train/{name}": value for name, value in report.accuracies.items()}
        if len(report.losses) > 1:
            more.update({f"train/loss/{name}": value for name, value in report.losses.items()})
        more.update(report.scalars)
        self.state.totals.add(epoch, iteration, report.loss, report.lam, report.sources, report.mixer, more)
        if self._guard is not None:
            self._guard.note(report.loss)
        if logging or reads_at_once(self.processes.device):
            self._read()

    def _read(self) -> None:
        """Fetch what was noted. Raises NonFiniteLossError where a loss was NaN or infinite, here or elsewhere."""
        self.state.totals.read()
        if self._guard is not None:
            self._guard.tell()

    def _optimizer_step(self) -> None:
        """The optimizer step and what follows it, unless the loss scaler skips it."""
        with nullcontext() if self._guard is None else self._guard.around_step():
            stepped = self._scaled_step()
            if stepped:
                self._follow_step()
        if self.state.scaler.is_enabled():
            self._count_skipped(stepped)

    def _scaled_step(self) -> bool:
        """Clip, unscale and step; whether the weights were updated: not where a scaled gradient overflowed."""
        state, scaler = self.state, self.state.scaler
        if self.config.clip_grad is not None:
            scaler.unscale_(state.optimizer)
            nn.utils.clip_grad_norm_(self._parameters, self.config.clip_grad)
        scale = scaler.get_scale() if scaler.is_enabled() else 1.0
        scaler.step(state.optimizer)
        scaler.update()
        return not scaler.is_enabled() or scaler.get_scale() >= scale

    def _follow_step(self) -> None:
        state = self.state
        state.updates += 1
        state.step.after_step()
        if state.ema is not None:
            state.ema.update(state.step.model, state.updates, state.iteration)

    def _count_skipped(self, stepped: bool) -> None:
        """Log skipped steps, and stop a run that has ceased to train. Raises NonFiniteLossError."""
        if self.processes.leads:
            self.state.totals.count("train/skipped", int(not stepped))
        self._skipped = 0 if stepped else self._skipped + 1
        if self._skipped >= self.config.max_skipped:
            raise NonFiniteLossError(
                f"the scaled fp16 gradients overflowed in {self._skipped} optimizer steps in a row, up to iteration "
                f"{self.state.iteration}, and every one was skipped though the scale of the loss fell to "
                f"{self.state.scaler.get_scale():.4g}. Checkpoints are as they were. Try --set train.precision=bf16 or "
                "fp32, a lower optimizer.lr, or a larger train.max_skipped"
            )

    def _must_leave(self, began: float) -> bool:
        """Write a checkpoint where one is due or all processes agree to stop; whether to stop."""
        self._stop = max(self._stop, self._agreement(self.wanted_stop()))
        if (self._stop or self.save_due) and self.state.between_optimizer_steps:
            self._read()
            if self._stop:
                self.state.seconds["train"] += time.monotonic() - began
            self.save()
            self.save_due = False
            return bool(self._stop)
        return False

    def finish(self) -> None:
        """Nobody calls the loop again: end what the processes still have under way."""
        self._agreement.finish()


def reads_at_once(device: torch.device) -> bool:
    """Whether a number on `device` can be read without waiting for what is under way there."""
    return device.type == "cpu"


def frees_gradients_first(device: torch.device) -> bool:
    """Whether the last step's gradients are freed before the forward, and not between it and the backward.

    On an accelerator they would lie beside all activations at the peak of memory (ResNet-50: 98 MiB). On the CPU those
    that live through the forward keep malloc from handing its pages back to the system between steps, which would cost
    a run a tenth of its time in page faults.
    """
    return device.type != "cpu"


def _ignore(report: Report) -> None:
    """Only the first report of an epoch is watched."""
