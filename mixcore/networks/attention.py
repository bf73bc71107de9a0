"""Taps on attention blocks, of whatever class: queries and keys caught by forward hooks, never the softmax matrix."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, TypeAlias

import attrs
from torch import Tensor, nn

from mixcore.errors import MixcoreError
from mixcore.types import Attention

__all__ = ["AttentionTap", "Hide"]

Hide: TypeAlias = Callable[[Callable[..., Any]], Callable[..., Any]]
"""What is done to a hook before it is registered: torch.compiler.disable where the network gets compiled."""


class AttentionTap(ABC):
    """Reads the attention of one class of modules; a subclass is an entry of the group `mixcore.attention`.

    The core makes one for each module that it `reads`, in a run that needs attention, before the network is compiled.
    `connect` says what of a forward is kept, `attention` makes the result of it when the forward has ended. Nothing is
    kept of a forward that nobody asked, and of each thing the first that a forward gives.
    """

    def __init__(self, name: str, module: nn.Module, model: nn.Module, hide: Hide) -> None:
        self._name, self._hide = name, hide
        self._kept: dict[str, Any] | None = None
        self.connect(module, model)

    @staticmethod
    @abstractmethod
    def reads(module: nn.Module) -> bool:
        """Whether `module` is of the class that this tap is made for, and computes what `attention` tells.

        Ask for the exact type: a subclass may compute something else, and a wrong row is worse than none. A module that
        two installed classes read is an error.
        """

    @abstractmethod
    def connect(self, module: nn.Module, model: nn.Module, /) -> None:
        """Say what is kept of a forward, by `keep_output` and `keep_inputs`.

        `module`, which this class reads, is a block of `model`, which may be asked for prefix tokens. Do not keep
        `model` itself: a copy of the block would copy all of it.
        """

    @abstractmethod
    def attention(self) -> Attention:
        """The block's attention in the forward that ended, of what was `kept`, without a graph.

        An :class:`Attention` of queries and keys [M,heads,P+T,d] as they are multiplied (rotated, normed, whatever the
        module does to them before), a :class:`WindowAttention`, or a subclass that computes its sums in another way.
        """

    def keep_output(self, key: str, module: nn.Module, of: Callable[[Any], Any] | None = None) -> None:
        """Keep what `module` puts out, detached where it is a tensor; with `of`, what that makes of it."""
        module.register_forward_hook(self._hide(_Keeper(self, key, of or _as_it_is).output))

    def keep_inputs(self, key: str, module: nn.Module, of: Callable[..., Any]) -> None:
        """Keep what `of` makes of the arguments that `module` is called with, positional and by name."""
        module.register_forward_pre_hook(self._hide(_Keeper(self, key, of).inputs), with_kwargs=True)

    def kept(self, key: str) -> Any:
        """What was kept as `key`. MixcoreError where the forward never came there."""
        if self._kept is None or key not in self._kept:
            raise MixcoreError(f"the forward never called the attention block {self._name!r}")
        return self._kept[key]

    def listen(self) -> None:
        """Called by the core: keep what the forward that comes gives."""
        self._kept = {}

    def rest(self) -> None:
        """Called by the core: forget everything and listen no more."""
        self._kept = None

    def _keep(self, key: str, make: Callable[[], Any]) -> None:
        if self._kept is not None and key not in self._kept:
            self._kept[key] = make()


@attrs.frozen(eq=False)
class _Keeper:
    """A hook of a tap: an object and no closure, so that a copy of the network has hooks of its own."""

    tap: AttentionTap
    key: str
    of: Callable[..., Any]

    def output(self, _module: nn.Module, _arguments: Any, output: Any) -> None:
        self.tap._keep(self.key, lambda: self.of(output.detach() if isinstance(output, Tensor) else output))

    def inputs(self, _module: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
        self.tap._keep(self.key, lambda: self.of(*arguments, **named))


def _as_it_is(output: Any) -> Any:
    return output
