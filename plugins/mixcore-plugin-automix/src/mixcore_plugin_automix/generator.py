"""What the block learns from: its loss terms, settled before the trained network runs."""

from __future__ import annotations

import functools
import operator
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from mixcore.api import Mix, Probe
from mixcore_plugin_automix.block import LearnedBlock

__all__ = ["judged", "settle_terms"]


def judged(mix: Mix, labels: Tensor, probe: Probe, network: str) -> tuple[Tensor, Tensor]:
    """The run's loss of the frozen part `network`, in train mode, on a mix, and its logits [M,K].

    The graph leads to what the images of the mix were made of: the network's weights are frozen.
    """
    output = probe.look(mix.images, network=network, train=True, grad=True)
    return probe.criterion(output.logits, mix.targets(labels)), output.logits


def settle_terms(
    terms: Mapping[str, Tensor], masks: Tensor, block: LearnedBlock[Any], probe: Probe
) -> dict[str, Tensor]:
    """The terms with the values that count, for `Mix.losses`; the block's gradient is taken now, its graph freed.

    A term that is NaN counts as 0, gives no gradient, and is counted in the block, all on the device. The gradient of
    all terms is delivered by the first.
    """
    kept, broken = {}, {}
    for name, loss in terms.items():
        broken[name] = loss.detach().isnan()
        # settled on the masks: the frozen network's graph is freed, and a NaN inside it stays there
        kept[name] = torch.where(broken[name], 0.0, probe.settle(loss, [masks]))
    are_broken = torch.stack(list(broken.values()))
    block.dropped.add_(are_broken.sum())
    total = probe.settle(functools.reduce(operator.add, kept.values()), block.parameters())
    # where the masks themselves are NaN, so is the block's gradient of nothing: times 0 it is delivered as zeros
    total = torch.where(are_broken.all(), 0.0, total)
    values = {name: value.detach() for name, value in kept.items()}
    first = next(iter(values))
    return {**values, first: values[first] + (total - total.detach())}
