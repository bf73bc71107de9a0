"""Squared error of mixed values."""

from __future__ import annotations

import torch

from mixcore.api import Mix
from mixcore_plugins_builtin.losses.mse import mean_squared_error


def test_a_pair_by_hand() -> None:
    """Row 0: t = 0.75·(1,2) + 0.25·(5,-2) = (2,1); row 1: t = 0.5·(5,-2) + 0.5·(1,2) = (3,0)."""
    values = torch.tensor([[1.0, 2.0], [5.0, -2.0]])
    mix = Mix.pair(torch.zeros(2, 1, 4, 4), torch.tensor([1, 0]), torch.tensor([0.75, 0.5]))
    loss = mean_squared_error(torch.tensor([[2.0, 2.0], [6.0, -4.0]]), mix.targets(values))
    torch.testing.assert_close(loss, torch.tensor((0.5 + 12.5) / 2))


def test_values_are_not_smoothed_and_only_labels_mix_linearly() -> None:
    generator = torch.Generator().manual_seed(0)
    values, logits = torch.randn(6, 3, generator=generator), torch.randn(6, 3, generator=generator)
    lam, partner = torch.rand(6, generator=generator), torch.randperm(6, generator=generator)
    mix = Mix.pair(torch.zeros(6, 1, 4, 4), partner, lam)
    expected = torch.nn.functional.mse_loss(logits, lam[:, None] * values + (1 - lam)[:, None] * values[partner])
    torch.testing.assert_close(mean_squared_error(logits, mix.targets(values)), expected)
