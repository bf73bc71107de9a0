"""Networks that came compiled: hooks that are set inside a compiled forward are not heard."""

from __future__ import annotations

from torch import nn

from mixcore.networks.interface import has_interface

__all__ = ["COMPILE_LATER", "compiled_around", "is_compiled", "kind_of"]

COMPILE_LATER = (
    "hand over the module as it was before torch.compile, and have it compiled with its stages left readable: "
    "create_step(..., compile=True), in a configuration [train] compile = true"
)
"""The way out for who needs to look inside."""


def is_compiled(network: nn.Module) -> bool:
    """Whether calling this module runs a compiled forward: it is what torch.compile gave, or was compiled in place."""
    return hasattr(network, "_orig_mod") or getattr(network, "_compiled_call_impl", None) is not None


def compiled_around(network: nn.Module, name: str) -> str | None:
    """Where a compiled forward encloses the module `name` ("" or "features": the network alone), in words, or None.

    A network with timm's interface runs by its two halves, which a compilation of the whole does not reach.
    """
    if is_compiled(network) and not has_interface(network):
        return f"{kind_of(network)} is compiled"
    inner: nn.Module | None = network
    steps = name.split(".") if name else []
    for depth, step in enumerate(steps, 1):
        inner = getattr(inner, step, None)
        if not isinstance(inner, nn.Module):
            return None
        # what torch.compile gave calls its own hooks outside of what it compiled
        outside = depth == len(steps) and hasattr(inner, "_orig_mod")
        if is_compiled(inner) and not outside:
            return f"{'.'.join(steps[:depth])!r} of {kind_of(network)} is compiled"
    return None


def kind_of(network: nn.Module) -> str:
    """The class of a network, of a compiled one that of the module inside."""
    return type(getattr(network, "_orig_mod", network)).__name__
