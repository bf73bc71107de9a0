"""What stands in a ForwardOutput for evidence that nobody asked for: it says so when it is read."""

from __future__ import annotations

from typing import Any, NoReturn

from torch import Tensor

from mixcore.errors import MixcoreError
from mixcore.types import Attention, Stage

__all__ = ["KeptStages", "NoAttention"]


class NoAttention(tuple[Attention, ...]):
    """Attention of a forward that kept none: empty, and MixcoreError for who reads blocks from it."""

    __slots__ = ()

    def __getitem__(self, _index: Any) -> NoReturn:
        raise _no_attention()

    def __iter__(self) -> NoReturn:
        raise _no_attention()


def _no_attention() -> MixcoreError:
    return MixcoreError(
        'this forward kept no attention; a hook that reads it has needs = frozenset({"attention"}) on its class, and '
        "one forward alone keeps it by probe.look(..., attention=True)"
    )


class KeptStages(dict[Stage, Tensor]):
    """The maps of a forward under the names that were asked; MixcoreError for a stage that was not."""

    def __missing__(self, stage: Stage) -> NoReturn:
        kept = ", ".join(map(repr, self)) or "none"
        raise MixcoreError(
            f"this forward kept no stage {stage!r}; it kept: {kept}; a hook that reads it has "
            f"stages = ({_quoted(stage)},) on its class, and one forward alone keeps it by "
            f"probe.look(..., stages=({_quoted(stage)},))"
        )


def _quoted(stage: Stage) -> str:
    return f'"{stage}"' if isinstance(stage, str) else repr(stage)
