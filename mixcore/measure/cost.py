"""Time and memory of iterations, the mixers taking turns in one process so that all meet the same conditions."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping

import attrs
import torch
from torch import Tensor

from mixcore.data.stand_ins import stand_ins
from mixcore.measure.memory import held_bytes, peak_bytes
from mixcore.measure.passes import Passes, count_passes
from mixcore.step.step import TrainingStep
from mixcore.types import Batch

__all__ = ["Cost", "cpu_time", "measure"]

WARM_UP = 2
"""Iterations that each step runs before any is timed; their passes are counted."""
Build = Callable[[], TrainingStep]


@attrs.frozen(kw_only=True)
class Cost:
    """Cost of one mixer; times are medians in milliseconds."""

    mix_ms: float
    """Generating the mix and its label weights for one batch."""
    step_ms: float
    """A whole iteration with backward, optimizer step and what plugins do after it."""
    passes: Passes
    peak_bytes: int
    """Most memory that its network, optimizer and iteration held together."""


def cpu_time(device: torch.device) -> bool:
    """Whether times are the process's CPU time: on one thread, where it is the wall time of an idle machine."""
    return device.type == "cpu" and torch.get_num_threads() == 1


class _Runner:
    """One training step with its optimizer, its iterations counted."""

    def __init__(self, build: Build, images: Tensor, labels: Tensor) -> None:
        self.step = build()
        self._beside = stand_ins(images, self.step.augmentations, self.step.maps)
        self._batch = Batch(images=images, labels=labels, **self._beside)
        self.optimizer = torch.optim.SGD(self.step.param_groups(lr=1e-3), lr=1e-3, momentum=0.9)
        self.passes = count_passes(self.step, images, labels, range(WARM_UP))
        self.iteration = WARM_UP
        self.mix_times: list[float] = []
        self.step_times: list[float] = []
        self._train()
        self.optimizer.zero_grad(set_to_none=True)
        self.peak = held_bytes(self._tensors()) + peak_bytes(self._train, images.device)
        self.optimizer.zero_grad(set_to_none=True)

    def run(self) -> None:
        """Time a mix and then an iteration, both with the draws of the next iteration."""
        number = self.iteration
        self.mix_times.append(self._timed(lambda: self.step.mix_batch(self._batch, mixer=0, iteration=number)))
        self.step_times.append(self._timed(self._train))
        self.optimizer.zero_grad(set_to_none=True)

    def cost(self) -> Cost:
        return Cost(
            mix_ms=statistics.median(self.mix_times),
            step_ms=statistics.median(self.step_times),
            passes=self.passes,
            peak_bytes=self.peak,
        )

    def _train(self) -> None:
        loss, _ = self.step(*self._batch, **self._beside, iteration=self.iteration)
        loss.backward()
        self.optimizer.step()
        self.step.after_step()
        self.iteration += 1

    def _timed(self, work: Callable[[], object]) -> float:
        clock = time.process_time if cpu_time(self._batch.images.device) else time.perf_counter
        self._wait()
        start = clock()
        work()
        self._wait()
        return 1000 * (clock() - start)

    def _wait(self) -> None:
        if self._batch.images.is_cuda:
            torch.cuda.synchronize(self._batch.images.device)

    def _tensors(self) -> Iterator[Tensor]:
        yield from self.step.parameters()
        yield from self.step.buffers()
        for state in self.optimizer.state.values():
            yield from (value for value in state.values() if isinstance(value, Tensor))


def measure(
    builds: Mapping[str, Build],
    images: Tensor,
    labels: Tensor,
    *,
    repeats: int,
    skip: Callable[[str, Exception], bool] = lambda _name, _error: False,
) -> dict[str, Cost]:
    """Cost of each training step on one batch, `images` [N,C,H,W] and `labels`, by name.

    Maps and further augmentations that plugins read have stand-ins.

    Each of `builds` makes its own step; steps stay alive together and take turns, who goes first moving on, `repeats`
    rounds after the warm-up. `skip` is told what building or the warm-up raised, and says whether to go on without.
    """
    runners: dict[str, _Runner] = {}
    for name, build in builds.items():
        try:
            runners[name] = _Runner(build, images, labels)
        except Exception as error:
            if not skip(name, error):
                raise
    order = list(runners)
    for _ in range(repeats):
        for name in order:
            runners[name].run()
        order = [*order[1:], *order[:1]]
    return {name: runner.cost() for name, runner in runners.items()}
