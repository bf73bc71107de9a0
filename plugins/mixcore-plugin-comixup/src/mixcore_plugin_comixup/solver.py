"""The solver of one output's labels, for many groups and from many starts at once.

Grids of 2x2 blocks are solved exactly. Larger ones by chains: lines of blocks that are no neighbours, every second row
or column, are labelled anew, each line in the best way that there is beside the others as they are. At last the starts
are put together column by column. A fixed number of operations of fixed shape, without a question to the device.
"""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

from mixcore_plugin_comixup.labels import PairCosts

__all__ = ["solve", "solve_by_chains", "solve_two_by_two"]

CONSTANTS = 8
"""Labels of which the whole output is made as a start, the cheapest; at 8x8 blocks 4 leave half as much gap again."""
SMALL = 4
"""Blocks a side up to which a third pass gains next to nothing: 1e-5 of mean energy, against 6e-4 at 8x8 blocks."""


def solve(unary: Tensor, costs: PairCosts, current: Tensor) -> Tensor:
    """Labels int64 [G,n,n] of nearly least energy, never worse than `current` [G,n,n] or any one label alone.

    The energy is the sum of `unary` [G,n,n,L] and of `costs` between neighbours above each other and side by side.
    """
    if unary.shape[1] == 2:
        return solve_two_by_two(unary, costs)
    return solve_by_chains(unary, costs, current)


def solve_two_by_two(unary: Tensor, costs: PairCosts) -> Tensor:
    """Labels [G,2,2] of least energy: for all labels of one corner and its opposite the best of the two others."""
    groups, labels = unary.shape[0], unary.shape[3]
    corner, right, below, opposite = unary.flatten(1, 2).unbind(1)
    between = torch.stack((right, below), 1)  # both are neighbours of both corners
    ways = costs.least(between[:, :, None] + costs.table).sum(1) + corner[:, :, None] + opposite[:, None]
    best = ways.flatten(1).argmin(1)
    ends = torch.stack((best.div(labels, rounding_mode="floor"), best % labels), 1)
    middle = (between + costs.table[ends].sum(1, keepdim=True)).argmin(2)
    return torch.cat((ends[:, :1], middle, ends[:, 1:]), 1).view(groups, 2, 2)


def solve_by_chains(unary: Tensor, costs: PairCosts, current: Tensor) -> Tensor:
    """Labels [G,n,n]: rows and columns of all starts are renewed, in larger grids rows again; then the best columns."""
    found = _starts(unary, current)
    groups, side, _, labels = unary.shape
    # what each block costs its neighbours, by their label; round the grid is nothing
    around = unary.new_zeros(len(found), groups, side + 2, side + 2, labels)
    around[:, :, 1:-1, 1:-1] = _rows(costs.table, found)
    rows = unary, around, found
    columns = unary.transpose(1, 2), around.transpose(2, 3), found.transpose(2, 3)
    for unaries, arounds, labelled in (rows, columns) if side <= SMALL else (rows, columns, rows):
        for first in (0, 1):
            _renew(unaries, costs, arounds, labelled, first)
    return _best_lines(columns[0], costs, columns[2]).transpose(1, 2)


def _starts(unary: Tensor, current: Tensor) -> Tensor:
    """[R,G,n,n]: each block by itself, the cheapest labels alone, and the labels as they are."""
    side = unary.shape[1]
    whole = unary.sum((1, 2))
    cheapest = whole.topk(min(CONSTANTS, whole.shape[1]), largest=False).indices.t()
    constants = cheapest[:, :, None, None].expand(-1, -1, side, side)
    return torch.cat((unary.argmin(-1)[None], constants, current[None]))


def _rows(table: Tensor, labels: Tensor) -> Tensor:
    """table[labels], [..,L]."""
    return torch.embedding(table, labels)


def _renew(unary: Tensor, costs: PairCosts, around: Tensor, found: Tensor, first: int) -> None:
    """New labels for every second line from `first` on, those of least energy with the others fixed, in place.

    `around` [R,G,n+2,n+2,L] are the rows of the table of the labels `found` [R,G,n,n]. The best sums up to each block
    of a line are found going along it, the labels going back.
    """
    lines = (unary.shape[1] - first + 1) // 2
    mine = slice(first + 1, first + 2 * lines, 2)
    above, below = slice(first, first + 2 * lines - 1, 2), slice(first + 2, first + 2 * lines + 1, 2)
    sums = around[:, :, above, 1:-1] + around[:, :, below, 1:-1]
    sums += unary[:, first::2]
    along = sums.unbind(3)
    for before, here in itertools.pairwise(along):
        here += costs.least(before)
    labels = [along[-1].argmin(-1)]
    rows = [_rows(costs.table, labels[0])]
    for here in reversed(along[:-1]):
        labels.append((here + rows[-1]).argmin(-1))
        rows.append(_rows(costs.table, labels[-1]))
    around[:, :, mine, 1:-1] = torch.stack(rows[::-1], 3)
    found[:, :, first::2] = torch.stack(labels[::-1], 3)


def _best_lines(unary: Tensor, costs: PairCosts, found: Tensor) -> Tensor:
    """Labels [G,n,n] of least energy of those whose every line is that of one of the R labellings `found` [R,G,n,n]."""
    side = unary.shape[1]
    inside = unary.gather(3, found.permute(1, 2, 3, 0)).sum(2)
    inside += costs.table[found[..., 1:], found[..., :-1]].sum(-1).permute(1, 2, 0)  # [G,n,R]
    steps = costs.table[found[:, None, :, :-1], found[None, :, :, 1:]].sum(-1).permute(2, 3, 0, 1)  # [G,n-1,old,new]
    best, origins = inside[:, 0], []
    for line in range(1, side):
        least, origin = (best[:, :, None] + steps[:, line - 1]).min(1)
        origins.append(origin)
        best = least + inside[:, line]
    choice = best.argmin(1, keepdim=True)
    choices = [choice]
    for origin in reversed(origins):
        choice = origin.gather(1, choice)
        choices.append(choice)
    which = torch.cat(choices[::-1], 1)[None, :, :, None].expand(1, -1, -1, side)
    return found.gather(0, which)[0]
