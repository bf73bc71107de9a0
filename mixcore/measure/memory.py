"""Memory that tensors hold: what lasts, and the peak of a piece of work."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

__all__ = ["held_bytes", "peak_bytes"]


def held_bytes(tensors: Iterable[Tensor]) -> int:
    """Bytes of the memory behind the tensors; what several share counts once."""
    return sum({one.untyped_storage().data_ptr(): one.untyped_storage().nbytes() for one in tensors}.values())


def peak_bytes(work: Callable[[], object], device: torch.device) -> int:
    """Most bytes that tensors made by `work` on `device` held together.

    On the CPU, where torch keeps no peak counter, as seen at the end of each of its operations: scratch memory inside
    one is not seen. The profiler that tells slows the work down: do not time it.
    """
    if device.type != "cuda":
        return _peak_on_cpu(work)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    work()
    return torch.cuda.max_memory_allocated(device) - before


def _peak_on_cpu(work: Callable[[], object]) -> int:
    # else the profiler reports on a CUDA that is not there, in the middle of whatever is printed
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        work()
    held = most = 0
    for event in sorted(profiled.events(), key=lambda event: event.time_range.end):
        held += event.self_cpu_memory_usage
        most = max(most, held)
    return most
