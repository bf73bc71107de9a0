"""Train and eval mode, set for a while."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from torch import nn

__all__ = ["mode"]


@contextmanager
def mode(modules: nn.Module | Iterable[nn.Module], training: bool) -> Iterator[None]:
    """Put a module, or several, with all they hold into train or eval mode, and afterwards each back into its own.

    A module that is in train mode already keeps the modes of its parts: what was frozen inside it stays frozen.
    """
    roots = (modules,) if isinstance(modules, nn.Module) else modules
    before = [(part, part.training) for root in roots if not (root.training and training) for part in root.modules()]
    try:
        for part, _ in before:
            part.training = training
        yield
    finally:
        for part, was in before:
            part.training = was
