"""How often networks are run in one iteration, and how often gradients flow through them."""

from __future__ import annotations

from collections.abc import Iterable

import attrs
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from mixcore.data.stand_ins import stand_ins
from mixcore.step.step import TrainingStep

__all__ = ["Passes", "count_passes"]


@attrs.frozen(kw_only=True)
class Passes:
    """Passes of batches of the given size: two forwards of half a batch are one."""

    forward: float
    backward: float
    """Those that reached the network's first layer."""

    def beyond(self, other: Passes) -> Passes:
        """What this has more than `other`."""
        return Passes(forward=self.forward - other.forward, backward=self.backward - other.backward)


def count_passes(step: TrainingStep, images: Tensor, labels: Tensor, iterations: Iterable[int] = (0,)) -> Passes:
    """Forward and backward passes per iteration, of the trained network and of the networks that plugins bring.

    Runs those iterations on `images` [N,C,H,W], their backward included, and takes the mean; gradients are cleared.
    Maps and augmentations that plugins read have stand-ins. A pass is seen at a network's first layer, so that looking
    at the last ones costs none.
    """
    seen = {"forward": 0, "backward": 0}
    numbers, beside = list(iterations), stand_ins(images, step.augmentations, step.maps)

    def backward(gradient: Tensor) -> None:
        seen["backward"] += gradient.shape[0]

    def forward(_module: nn.Module, _arguments: object, output: Tensor) -> None:
        seen["forward"] += output.shape[0]
        if output.requires_grad:
            output.register_hook(backward)

    handles: list[RemovableHandle] = [layer.register_forward_hook(forward) for layer in _first_layers(step)]
    try:
        for number in numbers:
            step(images, labels, iteration=number, **beside)[0].backward()
            step.zero_grad(set_to_none=True)
    finally:
        for handle in handles:
            handle.remove()
    each = len(numbers) * images.shape[0]
    return Passes(forward=seen["forward"] / each, backward=seen["backward"] / each)


def _first_layers(step: TrainingStep) -> list[nn.Module]:
    """The first layer of each network: the trained one, those of its kind, and those that have `forward_features`.

    That is the first module with parameters and no modules inside: a transformer holds tokens itself.
    """
    kinds = type(step.model)
    networks = [module for module in step.modules() if hasattr(module, "forward_features") or type(module) is kinds]
    layers = [next(filter(_is_layer, network.modules())) for network in networks]
    return list({id(layer): layer for layer in layers}.values())


def _is_layer(module: nn.Module) -> bool:
    return next(module.children(), None) is None and next(module.parameters(), None) is not None
