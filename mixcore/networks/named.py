"""Networks by the names that `[backbone]` takes, for rooms that do not know which plugins are installed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeAlias

from torch import nn

from mixcore.types import Task

__all__ = ["BuildBackbone", "backbone_plugin", "backbones_by"]

BuildBackbone: TypeAlias = Callable[[str, Task, Mapping[str, Any]], nn.Module | None]
"""(name, task, options) -> the bare network of an installed backbone plugin; None where no plugin has the name."""

_builder: ContextVar[BuildBackbone | None] = ContextVar("mixcore_backbones", default=None)


@contextmanager
def backbones_by(build: BuildBackbone) -> Iterator[None]:
    """For the hooks called inside: networks of backbone plugins are built by `build`."""
    token = _builder.set(build)
    try:
        yield
    finally:
        _builder.reset(token)


def backbone_plugin(name: str, task: Task, options: Mapping[str, Any]) -> nn.Module | None:
    """The network of the installed backbone plugin `name`; None where none has it, or outside of a step's building."""
    build = _builder.get()
    return None if build is None else build(name, task, options)
