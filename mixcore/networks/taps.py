"""Taps: forward hooks at declared stages and in attention blocks, inert unless the present forward asks.

They are set before the network is compiled, because a hook added later is silently ignored. They act only inside
:meth:`Taps.listening`, once, so not when activation checkpointing repeats a forward, nor in an evaluation.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import attrs
import torch
from torch import Tensor, nn

from mixcore.autocast import autocast_off
from mixcore.errors import MixcoreError
from mixcore.networks.attention import AttentionTap, Hide
from mixcore.networks.readers import attention_taps
from mixcore.types import Attention

__all__ = ["TapRecord", "Taps"]


@attrs.frozen(eq=False)
class TapRecord:
    """What the taps caught in one forward; complete when the forward has ended."""

    maps: dict[str, Tensor] = attrs.field(factory=dict)
    """Raw output of each stage that was read, after the transform where it was transformed too."""
    attention: list[Attention] = attrs.field(factory=list)
    """Per block, in the order of the network; filled by :meth:`Taps.listening` when it ends."""


class StageTap:
    """The tap at one stage: reads its output, or replaces it by `transform` of it."""

    def __init__(self, name: str, module: nn.Module, hide: Hide) -> None:
        self.name = name
        self.heard: TapRecord | None = None
        self.transform: Callable[[Tensor], Tensor] | None = None
        module.register_forward_hook(hide(self._hook))

    def _hook(self, _module: nn.Module, _arguments: Any, output: Any) -> Tensor | None:
        if self.heard is None or self.name in self.heard.maps:
            return None
        if not isinstance(output, Tensor):
            raise MixcoreError(
                f"the module {self.name!r} puts out a {type(output).__name__}, not a feature map; name another stage"
            )
        if self.transform is not None:
            with autocast_off(output.device):
                output = self.transform(output)
        self.heard.maps[self.name] = output
        return output if self.transform is not None else None

    def rest(self) -> None:
        self.heard = self.transform = None


class Taps:
    """All taps of one network. `stages` are module names; with `attention` every attention block is tapped too.

    `compiled` says that the network gets compiled: hooks then stay outside of the compiled graphs.
    """

    def __init__(
        self, module: nn.Module, stages: Iterable[str] = (), attention: bool = False, compiled: bool = False
    ) -> None:
        # naming torch.compiler.disable imports the compiler, which takes seconds
        hide: Hide = torch.compiler.disable if compiled else _as_it_is
        self._stages = {name: StageTap(name, module.get_submodule(name), hide) for name in dict.fromkeys(stages)}
        self._blocks: tuple[AttentionTap, ...] = attention_taps(module, hide) if attention else ()

    @contextmanager
    def listening(
        self,
        read: Collection[str] = (),
        at: str | None = None,
        transform: Callable[[Tensor], Tensor] | None = None,
        attention: bool = False,
    ) -> Iterator[TapRecord]:
        """For the one forward inside: keep the stages `read`, replace stage `at` by `transform` of it, keep attention.

        MixcoreError when the forward ends without having called a stage that was asked for.
        """
        heard = TapRecord()
        wanted = {*read, *([at] if at is not None else [])}
        try:
            for name in wanted:
                self._stages[name].heard = heard
            if at is not None:
                self._stages[at].transform = transform
            for block in self._blocks if attention else ():
                block.listen()
            yield heard
            if missing := wanted - heard.maps.keys():
                raise MixcoreError(
                    f"the forward never called stage {', '.join(sorted(missing))}; a network with activation "
                    "checkpointing may bypass its stages: set [train] checkpoint = false"
                )
            heard.attention.extend(_attention_of(block) for block in self._blocks if attention)
        finally:
            for tap in self._stages.values():
                tap.rest()
            for block in self._blocks:
                block.rest()


def _attention_of(block: AttentionTap) -> Attention:
    found = block.attention()
    if not isinstance(found, Attention):
        kind = type(block)
        raise MixcoreError(
            f"{kind.__module__}.{kind.__name__}.attention() gives a {type(found).__name__}, expected an Attention"
        )
    return found


def _as_it_is(hook: Callable[..., Any]) -> Callable[..., Any]:
    return hook
