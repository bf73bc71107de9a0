"""What the core asks of a network: images to logits. timm's interface, where it is there, gives more."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from mixcore.errors import MixcoreError

__all__ = ["Passes", "has_interface", "logits_of", "without_interface"]


def has_interface(network: nn.Module) -> bool:
    """Whether features and head of the network can be run apart, by timm's methods."""
    return hasattr(network, "forward_features") and hasattr(network, "forward_head")


def without_interface(network: nn.Module) -> str:
    """What a network without timm's interface is told, with the way out."""
    return (
        f"{type(network).__name__} is a plain module, whose features and head cannot be run apart; mixcore.as_backbone("
        'module, features="layer4", classifier="fc") gives it timm\'s interface by the names of its own modules'
    )


def logits_of(output: Any) -> Tensor:
    """The logits in what a network gave: a tensor, or an output with `.logits`. MixcoreError for anything else."""
    logits = output if isinstance(output, Tensor) else getattr(output, "logits", None)
    if not isinstance(logits, Tensor):
        raise MixcoreError(
            f"the network gave a {type(output).__name__}; expected a tensor of logits [M,K], or an output with .logits"
        )
    return logits


class Passes:
    """The forward of a network, compiled where the run compiles: in two halves where these can be run apart.

    `first` is what runs at first, images [M,C,H,W] to features, or to the logits of a network that is not `split`;
    `head` makes logits of features, or with `pre_logits=True` its own pooled input. MixcoreError where there is none.
    """

    def __init__(self, module: nn.Module, compiled: bool = False) -> None:
        as_run: Callable[[Any], Any] = torch.compile if compiled else _as_it_is
        network: Any = module
        self.split = has_interface(module)
        if self.split:
            self.first: Callable[[Tensor], Tensor] = as_run(network.forward_features)
            self.head: Callable[..., Tensor] = as_run(network.forward_head)
        else:
            whole: Callable[[Tensor], Any] = as_run(network)
            self.first = lambda images: logits_of(whole(images))
            self.head = _refusing(without_interface(module))

    def logits(self, images: Tensor) -> Tensor:
        """[M,K] of `images` [M,C,H,W]."""
        first = self.first(images)
        return self.head(first) if self.split else first


def _as_it_is(function: Any) -> Any:
    return function


def _refusing(message: str) -> Callable[..., NoReturn]:
    def refuse(*_arguments: Any, **_named: Any) -> NoReturn:
        raise MixcoreError(message)

    return refuse
