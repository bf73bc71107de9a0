"""Exponential moving average of the trained network's weights, kept by timm's ModelEmaV3."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, TypeAlias

import torch
from timm.utils import ModelEmaV3
from torch import Tensor, nn

__all__ = ["Ema", "EmaWarmup", "linear_decay"]

EmaWarmup: TypeAlias = bool | Literal["none", "timm", "linear"]
"""How the decay grows at the start: "timm" or True as timm has it, "linear" on a line, "none" or False not at all."""

FIRST_SHARE = 0.9
"""Of the decay, at which the line begins."""


def linear_decay(decay: float, iteration: int, warmup: int) -> float:
    """d(t) = decay (1 - (1 - t/W) 0.1) at micro-batch t < W, both counted from 0; `decay` from W on."""
    if iteration >= warmup:
        return decay
    return decay * (1 - (1 - iteration / warmup) * (1 - FIRST_SHARE))


class Ema:
    """Averaged weights: `ema = d · ema + (1 - d) · model` after every optimizer step.

    d is `decay`, and the first step copies the network; with `warmup` "timm" it is 1 - step^(-2/3) until that exceeds
    `decay`, so that a short run is not dominated by its first weights. With `warmup` "linear" it is
    :func:`linear_decay` over `warmup_iterations` micro-batches, from the first step on. It depends on the place in the
    run alone: there is no counter to save. Floating buffers (BatchNorm's statistics) are averaged like the weights they
    belong to and integer ones copied, or, without `buffers`, all copied from the network as it is. Made before anything
    hooks or wraps the network, because it is a copy of it.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        decay: float,
        warmup: EmaWarmup = False,
        warmup_iterations: int = 0,
        buffers: bool = True,
    ) -> None:
        self._average = ModelEmaV3(model, decay=decay, use_warmup=warmup in (True, "timm"))
        self._average.requires_grad_(False)
        self._decay, self._linear, self._warmup_iterations = decay, warmup == "linear", warmup_iterations
        self._buffers = buffers

    @property
    def module(self) -> nn.Module:
        """The averaged network, in eval mode."""
        return self._average.module

    def update(self, model: nn.Module, step: int, iteration: int) -> None:
        """After optimizer step number `step`, from 1, which was that of micro-batch `iteration`, from 0."""
        if self._linear:
            self._average.decay = linear_decay(self._decay, iteration, self._warmup_iterations)
        self._average.update(model, step=None if self._linear else step)  # without a number it goes by its decay alone
        if not self._buffers:
            with torch.no_grad():
                for own, found in zip(self.module.buffers(), model.buffers(), strict=True):
                    own.copy_(found)

    def state_dict(self) -> dict[str, Tensor]:
        """The averaged network's tensors by name, as in the network itself."""
        return dict(self.module.state_dict())

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take the averages from :meth:`state_dict`; every name must be there."""
        self.module.load_state_dict(dict(state), strict=True)
