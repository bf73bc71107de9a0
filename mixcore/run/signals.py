"""SIGTERM and SIGINT: remembered while training, so that a checkpoint is written before the process goes.

No handler raises at a first signal: whatever code it interrupts could swallow the exception, or take it for a fault of
the data that it was reading.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from types import FrameType, TracebackType
from typing import Any

from mixcore.children import launch_folder
from mixcore.errors import InterruptedRunError, MixcoreError, PreemptedError

__all__ = ["StopSignals", "idle_error", "leaving_at_once", "stop_error"]

_ERRORS: dict[int, type[MixcoreError]] = {
    PreemptedError.exit_code: PreemptedError,
    InterruptedRunError.exit_code: InterruptedRunError,
}
_CODES = {signal.SIGTERM: PreemptedError.exit_code, signal.SIGINT: InterruptedRunError.exit_code}
_NAMES = {code: number.name for number, code in _CODES.items()}


def stop_error(code: int, what: str) -> MixcoreError:
    """The error that ends a run with exit code `code` (75 or 130); `what` says what became of the run."""
    return _ERRORS[code](f"stopped by {_NAMES[code]}: {what}")


def idle_error(code: int) -> MixcoreError:
    """The error of a run that a signal stopped before it trained, or after."""
    return stop_error(code, "nothing was being trained. Start again with the same command")


@contextmanager
def leaving_at_once() -> Iterator[None]:
    """While inside, SIGTERM and SIGINT end this process on the spot, with exit code 75 or 130 and one line on stderr.

    For a command's own process and the times when it has nothing to save: imports and start-up. Nothing is unwound,
    as at a kill. A child of `--nproc` says nothing, its parent does. Outside the main thread it does nothing.
    """
    before = _replace_handlers(_leave)
    try:
        yield
    finally:
        _restore(before)


def _leave(number: int, _frame: FrameType | None) -> None:
    code = _CODES[signal.Signals(number)]
    if launch_folder() is None:
        os.write(2, f"mixcore: {idle_error(code)}\n".encode())
    os._exit(code)


def _replace_handlers(handler: Any) -> dict[signal.Signals, Any]:
    """Handle both signals by `handler`; the handlers before, none outside the main thread, which alone may do this."""
    if threading.current_thread() is not threading.main_thread():
        return {}
    return {number: signal.signal(number, handler) for number in _CODES}


def _restore(handlers: dict[signal.Signals, Any]) -> None:
    for number, handler in handlers.items():
        signal.signal(number, handler)
    handlers.clear()


class StopSignals(AbstractContextManager["StopSignals"]):
    """Remembers SIGTERM and SIGINT inside `deferred()`; elsewhere the handlers that were there before are in charge.

    The first signal sets `code`. A second SIGTERM changes nothing, because launchers repeat theirs while a checkpoint
    is being written. A second SIGINT, or whatever follows one, raises KeyboardInterrupt, which becomes an
    InterruptedRunError where the `with` block ends; a third signal goes to the handlers before.
    """

    def __init__(self) -> None:
        self.code = 0
        """0, or the exit code that a signal asks for: 75 for SIGTERM, 130 for SIGINT."""
        self._before: dict[signal.Signals, Any] = {}

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.code and isinstance(error, KeyboardInterrupt):
            what = "at once, at a second signal. Start again with the same command"
            raise stop_error(InterruptedRunError.exit_code, what) from None

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """While inside, a first signal waits for whoever reads `code`."""
        self._before = _replace_handlers(self._handle)
        try:
            yield
        finally:
            _restore(self._before)

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        first, code = self.code, _CODES[signal.Signals(number)]
        self.code = max(first, code)
        if first and self.code == InterruptedRunError.exit_code:
            _restore(self._before)
            raise KeyboardInterrupt
