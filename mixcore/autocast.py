"""Autocast as the core asks for it and switches it off; torch's `meta` device, which has none, counts as off."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch

__all__ = ["PRECISIONS", "autocast_dtype", "autocast_of", "autocast_off"]

PRECISIONS = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
"""What networks compute in, by the words of the configuration; None: as the tensors are."""

_AS_IT_IS = nullcontext()


def autocast_dtype(device: torch.device) -> torch.dtype | None:
    """What networks compute in on `device` under the autocast that is open now; None where none is."""
    if device.type == "meta" or not torch.is_autocast_enabled(device.type):
        return None
    return torch.get_autocast_dtype(device.type)


def autocast_off(device: torch.device) -> AbstractContextManager[None]:
    """Switches autocast off for `device` as long as it is open; does nothing where none is on."""
    return _AS_IT_IS if autocast_dtype(device) is None else torch.autocast(device.type, enabled=False)


@contextmanager
def autocast_of(dtype: torch.dtype | None, device: torch.device) -> Iterator[None]:
    """Opens autocast to `dtype` on `device` for one network call; does nothing for None.

    Weights that were cast are forgotten afterwards: a copy made without a graph would otherwise serve the next forward
    that needs one, and its weights would get no gradient.
    """
    if dtype is None or device.type == "meta":
        yield
        return
    with torch.autocast(device.type, dtype=dtype):
        yield
    torch.clear_autocast_cache()
