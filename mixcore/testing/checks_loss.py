"""Checks of a loss: what it is told of, and that it is a mean."""

from __future__ import annotations

import torch

from mixcore.testing.expect import expect
from mixcore.testing.fakes import Neighbours
from mixcore.testing.harness import Harness

__all__ = ["the_loss_heeds_the_weights", "the_loss_is_a_mean"]

ROWS = 6


def the_loss_heeds_the_weights(harness: Harness) -> None:
    """Other label weights give another loss."""
    own, other = (_view_loss(harness, Neighbours(rows=ROWS, lam=lam)) for lam in (0.2, 0.9))
    expect(
        abs(own - other) > 1e-6 * abs(own),
        f"the loss is {own:.6g} whatever the label weights are; it is told targets.sources and targets.weights, or "
        "targets.dense(num_classes)",
    )


def the_loss_is_a_mean(harness: Harness) -> None:
    """A batch that is repeated has the loss of the batch: the mean over the rows, not their sum."""
    once, twice = (_view_loss(harness, Neighbours(rows=ROWS), times) for times in (1, 2))
    expect(
        abs(twice - once) < 1e-3 * max(abs(once), 1e-3),
        f"the loss of a batch is {once:.6g}, of the same batch twice in one {twice:.6g}; take the mean over the rows "
        "after per-sample weights are applied",
    )


def _view_loss(harness: Harness, mixer: Neighbours, times: int = 1) -> float:
    """What compute_loss gives for the mix of a batch, repeated."""
    images, labels = harness.batch(ROWS)
    images, labels = torch.cat([images] * times), torch.cat([labels] * times)
    _, report = harness.step(mix=[mixer])(images, labels, epoch=0, iteration=0)
    return report.losses["mix"].item()
