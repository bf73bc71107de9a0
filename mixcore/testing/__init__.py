"""What every plugin is held to: the contract, the checks that it is made of, and small networks to run them with.

Importing this needs no pytest; only :class:`PluginContract` and its subclasses do.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mixcore.testing.checks import CHECKS, Check, checks_of
from mixcore.testing.fakes import TinyConvNet, tiny_network, tiny_vit
from mixcore.testing.harness import Harness, NotApplicableError, Subject, companions, make_step
from mixcore.testing.readme import code_blocks, run_example
from mixcore.testing.toy_run import ToyRun
from mixcore.testing.tripwire import HostReadError, Tripwire

if TYPE_CHECKING:
    from mixcore.testing.contract import MixerContract, PluginContract, SaliencyContract

__all__ = [
    "CHECKS",
    "Check",
    "Harness",
    "HostReadError",
    "MixerContract",
    "NotApplicableError",
    "PluginContract",
    "SaliencyContract",
    "Subject",
    "TinyConvNet",
    "ToyRun",
    "Tripwire",
    "checks_of",
    "code_blocks",
    "companions",
    "make_step",
    "run_example",
    "tiny_network",
    "tiny_vit",
]


def __getattr__(name: str) -> Any:
    if name in ("MixerContract", "PluginContract", "SaliencyContract"):
        from mixcore.testing import contract

        return getattr(contract, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
