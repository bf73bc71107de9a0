"""Extras that are told every epoch's record, and cannot end a run by what goes wrong with them."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from mixcore.errors import HookError, InterruptedRunError, PreemptedError
from mixcore.hooks.calls import PluginCalls

__all__ = ["Trackers"]


class Trackers:
    """Those of the `extras` that implement log_record, on rank 0."""

    def __init__(self, extras: Iterable[PluginCalls], folder: Path) -> None:
        self._trackers = [calls for calls in extras if calls.has("log_record")]
        self._folder = folder
        self._failed: set[PluginCalls] = set()

    def tell(self, record: Mapping[str, Any]) -> None:
        """Hand each its own copy of the `record`.

        What one raises is a warning the first time and nothing later: it is told the next record all the same. A stop
        that was asked for, and a SystemExit as the HookError that it becomes, pass.
        """
        for calls in self._trackers:
            try:
                calls.log_record(record=dict(record), folder=self._folder)
            except (HookError, PreemptedError, InterruptedRunError):
                raise
            except Exception as error:
                self._warn(calls, error)

    def _warn(self, calls: PluginCalls, error: Exception) -> None:
        if calls not in self._failed:
            self._failed.add(calls)
            logging.getLogger("mixcore").warning(
                "%s failed in log_record (%s: %s); the run goes on, and further failures of it are not said",
                calls.label,
                type(error).__name__,
                " ".join(str(error).split())[:300],
            )
