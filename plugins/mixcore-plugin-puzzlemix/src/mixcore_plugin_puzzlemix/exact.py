"""The exact solver for narrow grids: dynamic programming over rows, all samples at once."""

from __future__ import annotations

import torch
from torch import Tensor

from mixcore_plugin_puzzlemix.energy import Energy

__all__ = ["solve_exactly"]


def solve_exactly(energy: Energy) -> Tensor:
    """Labels [n,n,N] of least energy, float32; time and memory grow with n² L^(n+1).

    A state is the labels of n neighbouring blocks in reading order, first digit first. From one row to the next each
    column in turn replaces its digit: best[new] = min over old of best[old] + pull · (new - old)².
    """
    labels, blocks, _, count = energy.unary.shape
    digits = torch.arange(labels, device=energy.unary.device, dtype=energy.unary.dtype)
    jumps = (digits[:, None] - digits).square_()[:, :, None]  # [old, new, 1]
    rows = _row_costs(energy, jumps)
    best, before = rows[0], []
    for row in range(1, blocks):
        for column in range(blocks):
            before.append(best)
            steps = jumps * energy.vertical[row - 1, column]
            view = best.view(labels**column, 1, labels, -1, count)
            best = (view + steps[None, :, :, None]).amin(2).view(labels**blocks, count)
        best = best + rows[row]
    return _backtrack(energy, best.argmin(0), before)


def _row_costs(energy: Energy, jumps: Tensor) -> Tensor:
    """[n, L^n, N]: for each row what its labels cost by themselves and among each other."""
    labels, blocks, _, count = energy.unary.shape
    unary = energy.unary.movedim(0, 2)  # [row, column, label, N]
    costs = unary[:, 0]
    for column in range(1, blocks):
        added = jumps * energy.horizontal[:, column - 1, None, None] + unary[:, column, None]  # [row, old, new, N]
        costs = (costs.reshape(blocks, -1, labels, 1, count) + added[:, None]).reshape(blocks, -1, count)
    return costs


def _backtrack(energy: Energy, state: Tensor, before: list[Tensor]) -> Tensor:
    """Labels [n,n,N] from the best last state [N], by asking at each replaced digit which old one it came from."""
    labels, blocks, _, count = energy.unary.shape
    values = torch.arange(labels, device=state.device)[:, None]
    found: list[Tensor] = []
    for row in range(blocks - 1, -1, -1):
        places = [labels ** (blocks - 1 - column) for column in range(blocks)]
        digits = [state.div(place, rounding_mode="floor") % labels for place in places]
        found.extend(reversed(digits))
        if row == 0:
            break
        for column in range(blocks - 1, -1, -1):
            rest = state - digits[column] * places[column]
            costs = before.pop().gather(0, rest + values * places[column])
            costs += energy.vertical[row - 1, column] * (values - digits[column]).square()
            state = rest + costs.argmin(0) * places[column]
    found.reverse()
    return torch.stack(found).view(blocks, blocks, count).to(energy.unary.dtype)
