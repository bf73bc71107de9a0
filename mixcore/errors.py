"""Every error that mixcore raises on purpose.

A message says what was found, what was expected, and what to type next. The command line turns each into one message
without a traceback and the exit code that the class carries (design: 1 failed while running, 2 refused before
training, 75 preempted, 130 interrupted).
"""

from __future__ import annotations

__all__ = [
    "BrokenPluginError",
    "CheckpointError",
    "ConfigError",
    "DataError",
    "HookError",
    "InterruptedRunError",
    "MixcoreError",
    "NonFiniteLossError",
    "OptionValueError",
    "PluginConflictError",
    "PluginError",
    "PluginVersionError",
    "PreemptedError",
    "RunFolderError",
    "StorageError",
    "UnknownPluginError",
    "UnreadableSampleError",
]


class MixcoreError(Exception):
    """Base of all mixcore errors; `exit_code` is what the command line exits with."""

    exit_code = 1


class ConfigError(MixcoreError):
    """The configuration is refused; the message lists every fault found, one per line."""

    exit_code = 2
    faults: tuple[str, ...] = ()
    """Those lines, where the message lists several."""


class OptionValueError(ConfigError, ValueError):
    """An option has a value that these images or this task cannot take; also a ValueError for foreign loops."""


class PluginError(MixcoreError):
    """A plugin cannot be used."""

    exit_code = 2


class UnknownPluginError(PluginError):
    """No installed distribution offers the name."""


class PluginConflictError(PluginError):
    """Two distributions claim one name."""


class BrokenPluginError(PluginError):
    """A selected plugin cannot be imported, or its class breaks the plugin contract."""


class PluginVersionError(PluginError):
    """A plugin was written for another version of the hook specification or of mixcore."""


class HookError(MixcoreError):
    """A hook returned something that its specification does not allow."""


class DataError(MixcoreError):
    """A data set is missing, unreadable or inconsistent."""

    exit_code = 2


class UnreadableSampleError(DataError):
    """One sample cannot be read. With `skip` the loader leaves it out and counts it; without, the run stops."""

    exit_code = 1

    def __init__(self, message: str, *, skip: bool = False) -> None:
        super().__init__(message)
        self.skip = skip


class RunFolderError(MixcoreError):
    """The run folder cannot be written, or belongs to another configuration."""

    exit_code = 2


class StorageError(MixcoreError):
    """The disk refused a write while the run went on; what was there before is untouched."""


class CheckpointError(MixcoreError):
    """A checkpoint is truncated, unreadable, or of another configuration."""

    exit_code = 2


class NonFiniteLossError(MixcoreError):
    """The loss became NaN or infinite."""


class PreemptedError(MixcoreError):
    """SIGTERM arrived; a checkpoint was written and the same command continues."""

    exit_code = 75


class InterruptedRunError(MixcoreError):
    """SIGINT arrived; a checkpoint was written and the same command continues."""

    exit_code = 130
