"""Autocast: off in hooks, open around networks; and what gradients are scaled by where networks run in float16."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor

from mixcore.autocast import PRECISIONS, autocast_dtype, autocast_of, autocast_off
from mixcore.networks.scales import fixed_scale

__all__ = ["Precision"]

_AS_IT_IS = nullcontext()


@contextmanager
def _plain(device: torch.device) -> Iterator[None]:
    with autocast_off(device), torch.enable_grad():
        yield


class Precision:
    """The precision networks run in: `fp32`, `bf16`, `fp16`, or None for whatever autocast surrounds the step."""

    def __init__(self, name: str | None) -> None:
        self._follows = name is None
        self._dtype = PRECISIONS[name] if name is not None else None
        self._device = torch.device("cpu")
        self._scaler: torch.amp.GradScaler | None = None

    def use_scaler(self, scaler: torch.amp.GradScaler) -> None:
        """The scaler of the loop's backward: gradients that are taken before it are scaled as it is at that moment."""
        self._scaler = scaler

    def loss_scale(self, device: torch.device) -> Tensor | float:
        """What a loss is multiplied with while a gradient of it passes a float16 network; never read on the host."""
        if self._scaler is None or not self._scaler.is_enabled():
            return fixed_scale(device)
        scale: Tensor = self._scaler.scale(torch.ones((), dtype=torch.float32, device=device))
        return scale

    def hooks(self, device: torch.device) -> AbstractContextManager[None]:
        """Autocast off and gradients on for as long as it is open; remembers what surrounded the call."""
        self._device = device
        surrounding = autocast_dtype(device)
        if self._follows:
            self._dtype = surrounding
        if surrounding is None and torch.is_grad_enabled():
            return _AS_IT_IS  # switching for nothing costs a third of what blending a small batch does
        return _plain(device)

    def autocast(self) -> AbstractContextManager[None]:
        """Opens the run's autocast for one network call."""
        return autocast_of(self._dtype, self._device)
