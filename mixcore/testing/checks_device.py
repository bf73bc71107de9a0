"""The check on another device: what a plugin leaves on the CPU and what it reads there shows on any machine."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import attrs
import torch
from torch import Tensor

from mixcore.step.step import TrainingStep
from mixcore.testing.elsewhere import META, LeftOnHostError, NoKernelError, OtherDevice, ResultsElsewhere
from mixcore.testing.harness import Harness, NotApplicableError, Subject, companions
from mixcore.testing.places import place_of
from mixcore.testing.tripwire import HostReadError, Tripwire

__all__ = ["two_steps_on_another_device"]

STEPS = 2


def two_steps_on_another_device(harness: Harness) -> None:
    """On torch's meta device too: no tensor is left on the CPU, nothing of the batch or a network is read there."""
    with _told_with_its_place():
        if harness.device.type == "cuda":
            _watch_reads(harness)
        try:
            _train(Harness(_elsewhere(harness.given)))
        except NoKernelError as missing:
            _watch_reads(harness)
            raise NotApplicableError(f"{missing}, so that only reads of values were looked for") from missing


def _elsewhere(given: Subject) -> Subject:
    """The subject on the meta device; a module among its options is a copy, because nothing comes back from there."""
    return attrs.evolve(given, device=META.type, options=copy.deepcopy(given.options))


@contextmanager
def _told_with_its_place() -> Iterator[None]:
    """AssertionError for what was found, with the line of the plugin that did it."""
    try:
        yield
    except (HostReadError, LeftOnHostError) as error:
        raise AssertionError(f"{error}{place_of(error)}") from error


def _train(harness: Harness) -> None:
    """Whole training steps, every hook of them, on the meta device."""
    plugins = harness.plugins()
    plugins.manager.register(ResultsElsewhere())
    step = harness.step(plugins=plugins)
    optimizer = torch.optim.SGD(step.param_groups(lr=0.05, momentum=0.9))
    for iteration in range(STEPS):
        images, labels = harness.batch()
        with OtherDevice():
            loss = _loss(step, images, labels, iteration, logging=True)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            step.after_step()


def _watch_reads(harness: Harness) -> None:
    """Forwards on the harness's own device with a batch that raises when it is read, and all that comes of it."""
    images, labels = harness.batch()
    step = harness.step()
    for iteration in range(STEPS):
        with _waits_refused() if images.is_cuda else nullcontext():
            _loss(step, images, labels, iteration, logging=False)


def _loss(step: TrainingStep, images: Tensor, labels: Tensor, iteration: int, *, logging: bool) -> Tensor:
    """The loss of a batch that raises when it, its maps or its augmentations are read."""
    guarded = images.as_subclass(Tripwire)
    beside = companions(step, guarded)
    loss, _ = step(guarded, labels.as_subclass(Tripwire), epoch=0, iteration=iteration, logging=logging, **beside)
    return loss


@contextmanager
def _waits_refused() -> Iterator[None]:
    """Torch raises where the host waits for CUDA."""
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(before)
