"""Autocast as the core asks for it and switches it off; torch's `meta` device, which has none, counts as off."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch

__all__ = ["autocast_dtype", "autocast_off"]

_AS_IT_IS = nullcontext()


def autocast_dtype(device: torch.device) -> torch.dtype | None:
    """What networks compute in on `device` under the autocast that is open now; None where none is."""
    if device.type == "meta" or not torch.is_autocast_enabled(device.type):
        return None
    return torch.get_autocast_dtype(device.type)


def autocast_off(device: torch.device) -> AbstractContextManager[None]:
    """Switches autocast off for `device` as long as it is open; does nothing where none is on."""
    return _AS_IT_IS if autocast_dtype(device) is None else torch.autocast(device.type, enabled=False)
