"""The attributes of an object as plain values that can be compared later, whatever happens to them in between."""

from __future__ import annotations

from collections.abc import Mapping, Set
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor

__all__ = ["attributes", "frozen"]

_PLAIN = (int, float, complex, str, bytes, type(None))


def attributes(owner: object) -> dict[str, Any]:
    """Name -> value of what an instance has of its own, in slots or in its dictionary."""
    slots = [vars(base).get("__slots__", ()) for base in type(owner).__mro__]
    names = [name for names in slots for name in ((names,) if isinstance(names, str) else names)]
    own = {name: getattr(owner, name) for name in names if not name.startswith("__") and hasattr(owner, name)}
    return own | getattr(owner, "__dict__", {})


def frozen(value: Any, above: tuple[int, ...] = ()) -> Any:
    """A copy, through all that it holds, that compares by value; what has no value stands for itself."""
    if isinstance(value, _PLAIN):
        return type(value), value
    if id(value) in above:
        return "again", above.index(id(value))
    above = (*above, id(value))
    if isinstance(value, Tensor):
        return value.dtype, value.shape, value.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes()
    if isinstance(value, np.ndarray):
        return value.dtype, value.shape, value.tobytes()
    if isinstance(value, Generator):
        return Generator, bytes(value.get_state().tolist())
    if isinstance(value, Mapping):
        return type(value), [(frozen(key, above), frozen(item, above)) for key, item in value.items()]
    if isinstance(value, list | tuple):
        return type(value), [frozen(item, above) for item in value]
    if isinstance(value, Set):
        return type(value), frozenset(value)
    own = {} if isinstance(value, type) or callable(value) else attributes(value)
    return (type(value), frozen(own, above)) if own else (type(value), id(value))
