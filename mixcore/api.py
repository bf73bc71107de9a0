"""The one door for plugin authors: everything that a plugin imports from mixcore.

>>> from mixcore.api import Mix, hookimpl
"""

from __future__ import annotations

from mixcore.errors import ConfigError, MixcoreError
from mixcore.hooks.markers import hookimpl
from mixcore.hooks.version import SPEC_VERSION
from mixcore.types import Attention, Data, ForwardOutput, Mix, Part, Resident, Step, Targets, Task

__all__ = [
    "SPEC_VERSION",
    "Attention",
    "ConfigError",
    "Data",
    "ForwardOutput",
    "Mix",
    "MixcoreError",
    "Part",
    "Resident",
    "Step",
    "Targets",
    "Task",
    "hookimpl",
]
