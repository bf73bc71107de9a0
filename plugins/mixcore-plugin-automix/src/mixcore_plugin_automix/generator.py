"""What the block learns from: its loss terms, settled before the trained network runs."""

from __future__ import annotations

import functools
import operator
from collections.abc import Mapping

import torch
from torch import Tensor

from mixcore.api import Mix, Probe
from mixcore_plugin_automix.block import Draw, MixBlock
from mixcore_plugin_automix.masks import mix_by_mask

__all__ = ["generator_loss", "settle_terms"]


def generator_loss(images: Tensor, labels: Tensor, masks: Tensor, draw: Draw, probe: Probe, network: str) -> Tensor:
    """The run's loss of the frozen part `network`, in train mode, on images mixed by `masks`; labels weigh `draw.lam`.

    The graph leads to the masks alone: the network's weights are frozen.
    """
    mixed = Mix.pair(mix_by_mask(images, draw.partner, masks), draw.partner, draw.lam)
    output = probe.look(mixed.images, network=network, train=True, grad=True)
    return probe.criterion(output.logits, mixed.targets(labels))


def settle_terms(terms: Mapping[str, Tensor], masks: Tensor, block: MixBlock, probe: Probe) -> dict[str, Tensor]:
    """The terms with the values that count, for `Mix.losses`; the block's gradient is taken now, its graph freed.

    A term that is NaN counts as 0, gives no gradient, and is counted in the block, all on the device. The gradient of
    all terms is delivered by the one called "mask", which must be there.
    """
    kept, broken = {}, {}
    for name, loss in terms.items():
        broken[name] = loss.detach().isnan()
        # settled on the masks: the frozen network's graph is freed, and a NaN inside it stays there
        kept[name] = torch.where(broken[name], 0.0, probe.settle(loss, [masks]))
    block.dropped.add_(torch.stack(list(broken.values())).sum())
    total = probe.settle(functools.reduce(operator.add, kept.values()), block.parameters())
    # where the masks themselves are NaN, so is the block's gradient of nothing: times 0 it is delivered as zeros
    total = torch.where(broken["mask"], 0.0, total)
    values = {name: value.detach() for name, value in kept.items()}
    return {**values, "mask": values["mask"] + (total - total.detach())}
