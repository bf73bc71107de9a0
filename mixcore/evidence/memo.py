"""What was computed in an iteration, for whoever asks for it again."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any, TypeVar

from torch import Tensor

__all__ = ["Memo"]

Value = TypeVar("Value")


class Memo:
    """Keeps what was computed from a batch. Shared by all probes of one iteration."""

    def __init__(self) -> None:
        self._kept: dict[Hashable, tuple[Any, Tensor, Tensor]] = {}

    def once(self, what: Hashable, images: Tensor, labels: Tensor, compute: Callable[[], Value]) -> Value:
        """`compute()` at the first call with this `what` and batch; a batch written to since is another one."""
        key = (what, id(images), images._version, id(labels), labels._version)
        if key not in self._kept:
            # the tensors are kept with the result, so that no other tensor can get their ids
            self._kept[key] = (compute(), images, labels)
        value: Value = self._kept[key][0]
        return value
