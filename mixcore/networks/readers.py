"""Which installed class reads the attention of a module: entry points of the group `mixcore.attention`.

They are imported when attention is asked for, and never in a run without it. A broken one is an error where attention
is read, since nobody knows whether the blocks are its own; whoever only asks what a network offers goes without it.
"""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Iterator, Sequence

import attrs
from torch import nn

from mixcore.entry_points import Entry, broken, entries_in, load_object
from mixcore.errors import BrokenPluginError, ConfigError, MixcoreError, PluginConflictError
from mixcore.networks.attention import AttentionTap, Hide

__all__ = ["GROUP", "attention_taps", "check_readers", "has_attention"]

GROUP = "mixcore.attention"
"""Group of the entry points."""


def has_attention(model: nn.Module) -> bool:
    """Whether `model` has attention blocks that an installed class reads; broken classes read none."""
    return any(_reads_some(entry, model) for entry in _installed())


def check_readers(model: nn.Module) -> None:
    """Refuse to read the attention of `model` where it cannot be told which installed class reads which block.

    BrokenPluginError for a class that cannot be imported, is none, or fails at a module; PluginConflictError for a
    module that two of them read.
    """
    list(_blocks(model))


def attention_taps(model: nn.Module, hide: Hide) -> tuple[AttentionTap, ...]:
    """A tap on every attention block of `model` that can be read, in the order of its modules.

    Raises as :func:`check_readers` does, and ConfigError where there is none.
    """
    taps = tuple(reader.tap(name, module, model, hide) for name, module, reader in _blocks(model))
    if not taps:
        known = ", ".join(entry.label for entry in _installed()) or "none"
        raise ConfigError(
            f"{type(model).__name__} has no attention that an installed class reads ({known}); use a [backbone] that "
            "has, install or write a class that reads this one (docs/writing_a_plugin.md), or take plugins and options "
            "that read no attention"
        )
    return taps


@attrs.frozen
class _Reader:
    entry: Entry
    kind: type[AttentionTap]

    def reads(self, module: nn.Module) -> bool:
        """Whether the class reads the module. BrokenPluginError where it cannot say."""
        try:
            answer = self.kind.reads(module)
        except Exception as error:
            what = f"reads() raises {type(error).__name__} at a {type(module).__name__}: {error}"
            raise broken(self.entry, what) from error
        if not isinstance(answer, bool):
            raise broken(self.entry, f"reads() gives a {type(answer).__name__}, expected True or False")
        return answer

    def tap(self, name: str, module: nn.Module, model: nn.Module, hide: Hide) -> AttentionTap:
        """A tap on the module. BrokenPluginError where it cannot be made."""
        try:
            return self.kind(name, module, model, hide)
        except MixcoreError:
            raise
        except Exception as error:
            what = f"connect() raises {type(error).__name__} at {name!r}, a {type(module).__name__}: {error}"
            raise broken(self.entry, what) from error


def _installed() -> tuple[Entry, ...]:
    return _entries(tuple(sys.path))


@functools.cache
def _entries(_path: tuple[str, ...]) -> tuple[Entry, ...]:
    return tuple(sorted(entries_in(GROUP), key=lambda entry: (entry.name, entry.distribution)))


def _loaded(entry: Entry) -> _Reader:
    kind = load_object(entry)
    if not (isinstance(kind, type) and issubclass(kind, AttentionTap)):
        raise broken(entry, f"expected a subclass of mixcore.api.AttentionTap, found {_described(kind)}")
    if inspect.isabstract(kind):
        raise broken(entry, f"{kind.__name__} does not define {', '.join(sorted(kind.__abstractmethods__))}")
    return _Reader(entry, kind)


def _described(found: object) -> str:
    return f"class {found.__name__}" if isinstance(found, type) else f"a {type(found).__name__}"


def _reads_some(entry: Entry, model: nn.Module) -> bool:
    try:
        reader = _loaded(entry)
        return any(reader.reads(module) for module in model.modules())
    except BrokenPluginError:
        return False


def _blocks(model: nn.Module) -> Iterator[tuple[str, nn.Module, _Reader]]:
    """Name, module and its reader, of each attention block that can be read."""
    readers = [_loaded(entry) for entry in _installed()]
    for name, module in model.named_modules():
        claims = [reader for reader in readers if reader.reads(module)]
        if len(claims) > 1:
            raise PluginConflictError(_conflict(name, module, [reader.entry for reader in claims]))
        if claims:
            yield name, module, claims[0]


def _conflict(name: str, module: nn.Module, entries: Sequence[Entry]) -> str:
    both = " and ".join(entry.label for entry in entries)
    others = dict.fromkeys(entry.distribution for entry in entries if entry.distribution != "mixcore")
    remedy = " or ".join(f"pip uninstall {distribution}" for distribution in others)
    return f"the attention of {name!r} ({type(module).__name__}) is read by {both}. Remove one: {remedy}"
