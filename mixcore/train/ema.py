"""Exponential moving average of the trained network's weights, kept by timm's ModelEmaV3."""

from __future__ import annotations

from collections.abc import Mapping

from timm.utils import ModelEmaV3
from torch import Tensor, nn

__all__ = ["Ema"]


class Ema:
    """Averaged weights: `ema = d · ema + (1 - d) · model` after every optimizer step.

    Floating buffers (BatchNorm's statistics) are averaged like the weights they belong to; integer ones are copied.
    d is `decay`; with `warmup`, it is 1 - step^(-2/3) until that exceeds `decay`, so that a short run is not
    dominated by its first weights. It depends on the number of the step alone: there is no counter to save. Made
    before anything hooks or wraps the network, because it is a copy of it.
    """

    def __init__(self, model: nn.Module, *, decay: float, warmup: bool = False) -> None:
        self._average = ModelEmaV3(model, decay=decay, use_warmup=warmup)
        self._average.requires_grad_(False)

    @property
    def module(self) -> nn.Module:
        """The averaged network, in eval mode."""
        return self._average.module

    def update(self, model: nn.Module, step: int) -> None:
        """After optimizer step number `step`, counted from 1; the first step copies the network."""
        self._average.update(model, step=step)

    def state_dict(self) -> dict[str, Tensor]:
        """The averaged network's tensors by name, as in the network itself."""
        return dict(self.module.state_dict())

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take the averages from :meth:`state_dict`; every name must be there."""
        self.module.load_state_dict(dict(state), strict=True)
