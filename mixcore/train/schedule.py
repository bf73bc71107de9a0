"""Learning-rate schedules: a function of the iteration, without state.

Cosine over the whole run, `lr(p) = min_lr + (base_lr - min_lr) (1 + cos(pi p)) / 2`. On the clock "epoch" p = e/E with
e the epoch's index: one value per epoch. On the clock "iteration" p = t/T with t the index of the micro-batch and
T = E · (iterations per epoch). p never reaches 1. Linear warm-up over the first W = warmup_epochs · (iterations per
epoch) micro-batches, on either clock, multiplies that value by `1 - (1 - t/W) (1 - warmup_ratio)`; it does not delay
the cosine.
"""

from __future__ import annotations

import math

import torch

from mixcore.config.schema import ScheduleConfig

__all__ = ["Schedule", "learning_rate"]


def learning_rate(
    iteration: int,
    config: ScheduleConfig,
    iterations_per_epoch: int,
    *,
    base_lr: float,
    min_lr: float,
    warmup_epochs: float,
) -> float:
    """The learning rate at `iteration`, a count of micro-batches from 0 over the whole run.

    `base_lr`, `min_lr` and `warmup_epochs` are those of one parameter group.
    """
    lr = base_lr
    if config.name == "cosine":
        if config.clock == "epoch":
            progress = (iteration // iterations_per_epoch) / config.epochs
        else:
            progress = iteration / (config.epochs * iterations_per_epoch)
        lr = min_lr + (base_lr - min_lr) * (1 + math.cos(math.pi * progress)) / 2
    warmup = warmup_epochs * iterations_per_epoch
    if iteration < warmup:
        lr *= 1 - (1 - iteration / warmup) * (1 - config.warmup_ratio)
    return lr


class Schedule:
    """Writes each group's learning rate into the optimizer.

    A group that has `base_lr`, `min_lr` or `warmup_epochs` of its own goes by them; otherwise `base_lr` is the `lr`
    that the group had when the schedule was made, and the others come from the configuration.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, config: ScheduleConfig, iterations_per_epoch: int) -> None:
        self._optimizer, self._config, self._iterations_per_epoch = optimizer, config, iterations_per_epoch
        for group in optimizer.param_groups:
            group.setdefault("base_lr", group["lr"])
            group.setdefault("min_lr", config.min_lr)
            group.setdefault("warmup_epochs", config.warmup_epochs)

    def set(self, iteration: int) -> None:
        """Set the learning rates of `iteration`, a count of micro-batches from 0 over the whole run."""
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate(
                iteration,
                self._config,
                self._iterations_per_epoch,
                base_lr=group["base_lr"],
                min_lr=group["min_lr"],
                warmup_epochs=group["warmup_epochs"],
            )
