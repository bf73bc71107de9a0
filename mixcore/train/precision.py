"""Autocast: off in hooks, open around networks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

__all__ = ["PRECISIONS", "Precision"]

PRECISIONS = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


class Precision:
    """The precision networks run in: `fp32`, `bf16`, `fp16`, or None for whatever autocast surrounds the step."""

    def __init__(self, name: str | None) -> None:
        self._follows = name is None
        self._dtype = PRECISIONS[name] if name is not None else None
        self._device_type = "cpu"

    @contextmanager
    def hooks(self, device: torch.device) -> Iterator[None]:
        """Turns autocast off and gradients on, and remembers what surrounded the call."""
        self._device_type = device.type
        if self._follows:
            surrounds = torch.is_autocast_enabled(device.type)
            self._dtype = torch.get_autocast_dtype(device.type) if surrounds else None
        with torch.autocast(device.type, enabled=False), torch.enable_grad():
            yield

    @contextmanager
    def autocast(self) -> Iterator[None]:
        """Opens autocast for one network call.

        Weights that were cast are forgotten afterwards: a copy made without a graph would otherwise serve the next
        forward that needs one, and its weights would get no gradient.
        """
        if self._dtype is None:
            yield
            return
        with torch.autocast(self._device_type, dtype=self._dtype):
            yield
        torch.clear_autocast_cache()
