"""A tensor that raises when its values are moved to the host, so that a test on a CPU sees what would stall a device.

Everything computed from a :class:`Tripwire` is one: wrap the batch, and the networks' outputs are covered too. Numbers
drawn on the host are plain tensors and may be read; combined with a tripwire they become one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from mixcore.errors import MixcoreError

__all__ = ["HostReadError", "Tripwire", "host_read"]

_READERS = frozenset(
    (
        *("item", "tolist", "numpy", "cpu", "is_nonzero", "equal", "allclose"),
        *("__bool__", "__int__", "__float__", "__complex__", "__index__", "__array__", "__contains__", "__format__"),
        # their results have as many rows as there are such values, which the host must learn
        *("nonzero", "argwhere", "masked_select", "unique", "unique_consecutive", "_unique2", "unique_dim", "bincount"),
    )
)


class HostReadError(MixcoreError):
    """A value that came from the batch or from a network was read on the host."""


def host_read(what: str) -> HostReadError:
    """The error for something that reads, in the words of who wrote it."""
    return HostReadError(
        f"{what} reads on the host what came from the batch or from a network, which stalls an accelerator; "
        "keep it a tensor (torch.where, gather, masks), or draw the number from rng"
    )


class Tripwire(torch.Tensor):
    """Make one with `tensor.as_subclass(Tripwire)`; raises HostReadError when its values are read on the host.

    Its device says `cpu:0` where it is the CPU: `.to("cpu")` is caught and `.to(images.device)` is not.
    """

    @classmethod
    def __torch_function__(
        cls,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Runs `func` and makes tripwires of its results, unless it reads values."""
        kwargs = kwargs or {}
        name = getattr(func, "__name__", str(func))
        if name in _READERS or _reads(name, args, kwargs):
            raise host_read(name)
        result = super().__torch_function__(func, types, args, kwargs)  # type: ignore[arg-type]
        if isinstance(result, torch.device) and result.type == "cpu":
            return torch.device("cpu", 0)
        return result


def _reads(name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
    """Whether a function that may read its arguments does so with these."""
    if name == "to":
        return any(_is_host(value) for value in (*args[1:], *kwargs.values()))
    if name in ("__getitem__", "__setitem__"):
        value = args[2] if name == "__setitem__" else None
        fills = name == "__setitem__" and not (isinstance(value, Tensor) and value.ndim)
        return _reads_index(args[1], fills)
    if name == "where":
        return len(args) + len(kwargs) == 1
    if name == "repeat_interleave":
        repeats = kwargs.get("repeats", args[-1] if args else None)
        return isinstance(repeats, Tripwire) and kwargs.get("output_size") is None
    if name in ("split", "tensor_split"):
        return any(isinstance(value, Tripwire) for value in (*args[1:], *kwargs.values()))
    return False


def _is_host(value: object) -> bool:
    if isinstance(value, torch.device):
        return value.type == "cpu" and value.index is None
    return value == "cpu" if isinstance(value, str) else False


def _reads_index(index: object, fills: bool) -> bool:
    """Boolean masks are counted on the host (but where one number is filled in), single integers are fetched."""
    entries = index if isinstance(index, tuple | list) else (index,)
    for entry in entries:
        if isinstance(entry, slice) and any(isinstance(end, Tripwire) for end in (entry.start, entry.stop, entry.step)):
            return True
        if not isinstance(entry, Tripwire):
            continue
        boolean = entry.dtype in (torch.bool, torch.uint8)
        if (boolean and not fills) or (not boolean and entry.ndim == 0):
            return True
    return False
