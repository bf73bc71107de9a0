"""SIGTERM and SIGINT: remembered while training, so that a checkpoint is written before the process goes."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from types import FrameType, TracebackType
from typing import Any

from mixcore.errors import InterruptedRunError, MixcoreError, PreemptedError

__all__ = ["StopSignals", "stop_error"]

_ERRORS: dict[int, type[MixcoreError]] = {
    PreemptedError.exit_code: PreemptedError,
    InterruptedRunError.exit_code: InterruptedRunError,
}
_CODES = {signal.SIGTERM: PreemptedError.exit_code, signal.SIGINT: InterruptedRunError.exit_code}
_NAMES = {code: number.name for number, code in _CODES.items()}


def stop_error(code: int, what: str) -> MixcoreError:
    """The error that ends a run with exit code `code` (75 or 130); `what` says what became of the run."""
    return _ERRORS[code](f"stopped by {_NAMES[code]}: {what}")


class StopSignals(AbstractContextManager["StopSignals"]):
    """Handles SIGTERM and SIGINT inside a `with` block; does nothing outside the main thread.

    Inside `deferred()` the first signal is only remembered: `code` becomes the exit code to leave with. Elsewhere, and
    at a second SIGINT, or whatever follows a first one, PreemptedError or InterruptedRunError is raised on the spot. A
    second SIGTERM is ignored, because launchers repeat theirs while a checkpoint is being written.
    """

    def __init__(self) -> None:
        self.code = 0
        """0, or the exit code that a signal asks for: 75 for SIGTERM, 130 for SIGINT."""
        self._deferred = False
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._handle) for number in _CODES}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """While inside, a first signal waits for whoever reads `code`."""
        self._deferred = True
        try:
            yield
        finally:
            self._deferred = False

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        first = self.code
        interrupt = _CODES[signal.Signals(number)] == InterruptedRunError.exit_code
        self.code = max(first, _CODES[signal.Signals(number)])
        if not first and self._deferred:
            return
        if first and not interrupt and first != InterruptedRunError.exit_code:
            return
        what = "at once, at a second signal" if first else "before training; nothing was written"
        raise stop_error(self.code, f"{what}. Start again with the same command")
