"""Train and eval mode, set for a while."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

__all__ = ["mode"]


@contextmanager
def mode(module: nn.Module, training: bool) -> Iterator[None]:
    """Put every submodule into train or eval mode, and afterwards each back into the mode it was in.

    A module that is in train mode already keeps the modes of its parts: what was frozen inside it stays frozen.
    """
    if module.training and training:
        yield
        return
    before = [(part, part.training) for part in module.modules()]
    try:
        for part, _ in before:
            part.training = training
        yield
    finally:
        for part, was in before:
            part.training = was
