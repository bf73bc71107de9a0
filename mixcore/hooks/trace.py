"""Timing of hook calls (`[run] trace_hooks`): a wrapper of every hook that leaves its result alone."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Generator
from typing import Any

import torch

from mixcore.hooks.calls import HOOKS
from mixcore.hooks.markers import hookimpl

__all__ = ["HookTimes"]


class HookTimes:
    """Host seconds per hook, and a range named `mixcore.<hook>` around each call for torch's profiler and NVTX.

    Register an instance with the plugin manager. On CUDA a hook that only queues work takes little host time: the
    ranges show what its kernels take.
    """

    only_watches = True
    """Changes no result, so nothing is planned around it."""

    def __init__(self) -> None:
        self._seconds: dict[str, float] = defaultdict(float)
        self._calls: dict[str, int] = defaultdict(int)

    def add(self, hook: str, seconds: float) -> None:
        """Count one call."""
        self._seconds[hook] += seconds
        self._calls[hook] += 1

    def take(self) -> dict[str, float]:
        """Mean milliseconds per call of each hook that was called since the last time, as `perf/hooks/<hook>_ms`."""
        means = {f"perf/hooks/{hook}_ms": 1e3 * self._seconds[hook] / count for hook, count in self._calls.items()}
        self._seconds.clear()
        self._calls.clear()
        return means


def _timed(hook: str) -> Callable[[HookTimes], Generator[None, Any, Any]]:
    def wrapper(self: HookTimes) -> Generator[None, Any, Any]:
        began = time.perf_counter()
        try:
            with torch.profiler.record_function(f"mixcore.{hook}"):
                return (yield)
        finally:
            self.add(hook, time.perf_counter() - began)

    wrapper.__name__ = hook
    return hookimpl(wrapper=True)(wrapper)


for _hook in HOOKS:
    setattr(HookTimes, _hook, _timed(_hook))
