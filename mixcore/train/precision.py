"""Autocast: off in hooks, open around networks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch

__all__ = ["PRECISIONS", "Precision"]

PRECISIONS = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


_AS_IT_IS = nullcontext()


@contextmanager
def _plain(device_type: str) -> Iterator[None]:
    with torch.autocast(device_type, enabled=False), torch.enable_grad():
        yield


class Precision:
    """The precision networks run in: `fp32`, `bf16`, `fp16`, or None for whatever autocast surrounds the step."""

    def __init__(self, name: str | None) -> None:
        self._follows = name is None
        self._dtype = PRECISIONS[name] if name is not None else None
        self._device_type = "cpu"

    def hooks(self, device: torch.device) -> AbstractContextManager[None]:
        """Autocast off and gradients on for as long as it is open; remembers what surrounded the call."""
        kind = self._device_type = device.type
        surrounds = torch.is_autocast_enabled(kind)
        if self._follows:
            self._dtype = torch.get_autocast_dtype(kind) if surrounds else None
        if not surrounds and torch.is_grad_enabled():
            return _AS_IT_IS  # switching for nothing costs a third of what blending a small batch does
        return _plain(kind)

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
