"""Torch's `meta` device as a stand-in for an accelerator: what would fail or wait there raises, on any machine.

Its tensors have shapes and no values, so that a value cannot be read unnoticed, and a tensor that was left on the CPU
is another device's.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from typing import Any

import attrs
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from mixcore.api import hookimpl
from mixcore.errors import MixcoreError
from mixcore.testing.tripwire import host_read

__all__ = ["META", "LeftOnHostError", "NoKernelError", "OtherDevice", "ResultsElsewhere"]

META = torch.device("meta")
_BRING = (
    "make it there, torch.arange(n, device=images.device), bring what was drawn on the host with "
    "mixcore.api.send(tensor, images.device), and keep what lasts in a buffer of a part"
)


class LeftOnHostError(MixcoreError):
    """A tensor on the CPU met tensors of the batch's device, or was returned in their place."""


class NoKernelError(MixcoreError):
    """Torch cannot run an operation on its meta device, which says nothing about accelerators."""


class OtherDevice(TorchDispatchMode):
    """While it is open, operations on meta tensors raise where an accelerator would refuse them or wait for the host.

    LeftOnHostError for CPU tensors beside meta ones; a single number on the CPU counts as a number. HostReadError where
    a value is read, or a shape depends on values. NoKernelError for an operation that meta does not know.
    """

    def __torch_dispatch__(
        self,
        func: torch._ops.OpOverload,
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Runs `func`, unless it is one of those."""
        kwargs = kwargs or {}
        name = func._schema.name.partition("::")[2]
        tensors = [one for one in tree_leaves((args, kwargs)) if isinstance(one, Tensor)]
        if any(one.is_meta for one in tensors):
            if _reads(func, name, args, kwargs):
                raise host_read(_WORDS.get(name, name.strip("_")))
            behind = [one for one in tensors if _is_left(one)]
            if behind and name != "copy_":  # a copy is the way there
                raise LeftOnHostError(f"{name.strip('_')} of {_described(behind[0])} and tensors elsewhere; {_BRING}")
        try:
            return func(*args, **kwargs)
        except NotImplementedError as error:
            raise NoKernelError(f"torch has no {name.strip('_')} for its meta device") from error


_WORDS = {"_local_scalar_dense": "item", "_to_copy": "a copy to the CPU", "index": "a boolean index"}
"""What a plugin wrote, where the operation has another name."""


def _reads(func: torch._ops.OpOverload, name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
    """Whether the host has to know values for it: torch tags such operations, and some of them need not."""
    if name == "_to_copy":
        return _is_cpu(kwargs.get("device"))
    if name == "copy_":
        return args[1].is_meta and not args[0].is_meta
    if name == "index_put_":
        return _has_boolean(args[1])
    if not {torch.Tag.dynamic_output_shape, torch.Tag.data_dependent_output} & set(func.tags):
        return False
    if name == "index":
        return _has_boolean(args[1])
    return name != "repeat_interleave" or kwargs.get("output_size") is None


def _has_boolean(index: Sequence[Tensor | None]) -> bool:
    return any(one is not None and one.dtype in (torch.bool, torch.uint8) for one in index)


def _is_cpu(device: torch.device | str | None) -> bool:
    return device is not None and torch.device(device).type == "cpu"


def _is_left(tensor: Tensor) -> bool:
    return _is_cpu(tensor.device) and tensor.ndim > 0


def _described(tensor: Tensor) -> str:
    return f"a tensor {list(tensor.shape)} on the CPU"


class ResultsElsewhere:
    """Looks at what every hook returns: LeftOnHostError for a tensor on the CPU. Register it with a plugin manager."""

    only_watches = True
    """Changes no result, so nothing is planned around it."""


def _watched(hook: str) -> Callable[[ResultsElsewhere], Generator[None, Any, Any]]:
    def wrapper(self: ResultsElsewhere) -> Generator[None, Any, Any]:  # noqa: ARG001 - pluggy calls methods
        result = yield
        for name, tensor in _tensors("", result):
            if _is_left(tensor):
                what = name.strip(".") or "a result"
                raise LeftOnHostError(f"{hook} returned {what}, {_described(tensor)}; {_BRING}")
        return result

    wrapper.__name__ = hook
    return hookimpl(wrapper=True)(wrapper)


def _tensors(name: str, value: object) -> Iterator[tuple[str, Tensor]]:
    """All tensors in what a hook returned, each with its place there."""
    if isinstance(value, Tensor):
        yield name, value
    elif isinstance(value, Mapping):
        for key, one in value.items():
            yield from _tensors(f"{name}[{key!r}]", one)
    elif isinstance(value, tuple | list):
        for number, one in enumerate(value):
            yield from _tensors(f"{name}[{number}]", one)
    elif attrs.has(cls := type(value)):
        for field in attrs.fields(cls):
            yield from _tensors(f"{name}.{field.name}", getattr(value, field.name))


for _hook in ("generate_mix", "map_saliency", "mix_labels", "compute_loss", "extra_losses"):
    setattr(ResultsElsewhere, _hook, _watched(_hook))
