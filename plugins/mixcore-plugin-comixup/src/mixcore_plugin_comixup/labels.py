"""What the blocks of an output may be labelled with, and what labels cost.

Letters beside those of mixcore: G groups, I inputs of a group and as many outputs O, n blocks a side, L labels. A
label is one input, or two inputs that show half each. Such halves are offered between the T <= 3 inputs that an output
shows most of. The L labels stand in this order: the T inputs, the halves, then all I inputs, of which the T are blocked
because they have labels already. So what two labels cost is one table for all groups.
"""

from __future__ import annotations

import attrs
import torch
from torch import Tensor

from mixcore.api import send

__all__ = ["PairCosts", "counts_of", "labels_of", "offer_halves"]

TOP = 3
"""Inputs of an output between which halves are offered."""
KIN = 0.25
"""What a half and one of its own two inputs cost as neighbours, in units of the pull."""
HALF_BONUS = 5e-4
BLOCKED = 1e3
"""Cost of a label that may not be used."""


@attrs.frozen(eq=False, kw_only=True)
class PairCosts:
    """What labels of neighbouring blocks cost: 0 when equal, `pull` when not, less between a half and its inputs."""

    pull: float
    table: Tensor
    """[L,L] float32."""
    kin: Tensor | None = None
    """int64 [2,T+halves]: two labels that are kin to each of the first labels; None where no halves are offered."""

    @classmethod
    def without_halves(cls, inputs: int, pull: float, device: torch.device) -> PairCosts:
        """Labels are the inputs themselves."""
        return cls(pull=pull, table=pull * (1 - torch.eye(inputs, dtype=torch.float32, device=device)))

    @classmethod
    def with_halves(cls, inputs: int, pull: float, device: torch.device) -> PairCosts:
        """Labels in the order of this module, for at least two inputs."""
        top = min(TOP, inputs)
        # the halves of three: one for each input, between the other two
        kin = [[4, 3, 3, 1, 0, 0], [5, 5, 4, 2, 2, 1]] if top == 3 else [[2, 2, 0], [2, 2, 1]]
        related = send(torch.tensor(kin, device="cpu"), device)
        first = related.shape[1]
        table = pull * (1 - torch.eye(first + inputs, dtype=torch.float32, device=device))
        table[:first].scatter_(1, related.t(), KIN * pull)
        return cls(pull=pull, table=table, kin=related)

    @property
    def top(self) -> int:
        """T: over T inputs stand T(T-1)/2 halves."""
        assert self.kin is not None
        return 3 if self.kin.shape[1] == 6 else 2

    @property
    def halves(self) -> Tensor:
        """int64 [2,halves]: the two labels, of the first T, that each half consists of."""
        assert self.kin is not None
        return self.kin[:, self.top :]

    def least(self, costs: Tensor) -> Tensor:
        """min over l of costs[..,l] + table[l,l'], for each label l' of a neighbour: [..,L]."""
        found = torch.minimum(costs, costs.amin(-1, keepdim=True) + self.pull)
        if self.kin is not None:
            near = costs.index_select(-1, self.kin.view(-1)).unflatten(-1, (2, -1)).amin(-2)
            first = found[..., : self.kin.shape[1]]
            torch.minimum(first, near.add_(KIN * self.pull), out=first)
        return found


def counts_of(shown: Tensor, inputs: int) -> Tensor:
    """[G,I] float32: blocks that each input has of what is `shown` [G,2,n,n], halves counted half."""
    halves = torch.full((1, 1), 0.5, dtype=torch.float32, device=shown.device)
    counts = torch.zeros(len(shown), inputs, dtype=torch.float32, device=shown.device)
    return counts.scatter_add_(1, shown.flatten(1), halves.expand(len(shown), shown[0].numel()))


def offer_halves(unary: Tensor, counts: Tensor, costs: PairCosts) -> tuple[Tensor, Tensor]:
    """Costs [G,n,n,L] of the labels with halves, and int64 [G,2,L]: the two inputs that each label shows.

    `unary` [G,n,n,I] are the costs of the inputs, `counts` [G,I] the blocks that the output now shows of each. Only
    inputs that it shows are halved; of more than three those of largest count, the first of equals.
    """
    groups, side, _, inputs = unary.shape
    order = torch.arange(inputs, device=unary.device)
    top = (counts - order / (4 * inputs)).topk(costs.top).indices
    halves = costs.halves.reshape(-1)
    used = (counts.gather(1, top) > 0).index_select(1, halves).unflatten(1, (2, -1)).all(1)
    where = top[:, None, None].expand(-1, side, side, -1)
    best = unary.gather(3, where)
    mean = best.index_select(3, halves).unflatten(3, (2, -1)).mean(3)
    offered = mean + torch.where(used, -HALF_BONUS, BLOCKED)[:, None, None]
    members = top.index_select(1, halves).unflatten(1, (2, -1))
    top, order = (each[:, None].expand(-1, 2, -1) for each in (top, order.expand(groups, -1)))
    return torch.cat((best, offered, unary.scatter(3, where, BLOCKED)), 3), torch.cat((top, members, order), 2)


def labels_of(shown: Tensor, offered: Tensor, costs: PairCosts) -> Tensor:
    """The labels [G,n,n] of what is `shown` [G,2,n,n], among the labels `offered` int64 [G,2,L].

    Two halves for which there is no label are told by the label of the first alone.
    """
    first = costs.halves.shape[1] + costs.top
    inputs = offered.shape[2] - first
    place = torch.arange(first, first + inputs, device=shown.device).expand(len(shown), -1)
    top = torch.arange(costs.top, device=shown.device).expand(len(shown), -1)
    place = place.scatter(1, offered[:, 0, : costs.top], top)
    one, other = place.gather(1, shown.flatten(1)).view_as(shown).unbind(1)
    # of T inputs i, j the half has the number first - i - j
    return torch.where((one != other) & (torch.maximum(one, other) < costs.top), first - one - other, one)
