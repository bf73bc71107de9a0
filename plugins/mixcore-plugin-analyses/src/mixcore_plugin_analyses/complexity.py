"""Parameters, multiply-accumulates by torch's FLOP counter, and what the method costs in training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs
import torch
from attrs.validators import ge, optional
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from mixcore.api import MixcoreError, RunData, Task, hookimpl

__all__ = ["Complexity", "multiply_accumulates"]


def multiply_accumulates(work: Any, images: Tensor) -> int:
    """Multiplications with an addition in one call of `work` on the images."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        work(images)
    return counter.get_total_flops() // 2


def _millions(parameters: Any) -> float:
    return float(f"{sum(one.numel() for one in parameters) / 1e6:.5g}")


@attrs.define(eq=False, kw_only=True)
class Complexity:
    """Millions of parameters, billions of multiply-accumulates for one image, passes of a training iteration."""

    role = "analysis"
    spec_version = (1, 3)

    height: int | None = attrs.field(default=None, validator=optional(ge(1)))
    """Height of the image; absent: the task's."""
    width: int | None = attrs.field(default=None, validator=optional(ge(1)))
    """Width of the image; absent: the height given, or the task's."""

    @hookimpl
    def analyse(self, model: nn.Module, data: RunData, task: Task) -> Mapping[str, Any]:
        """The backbone is what comes before the head, where the two can be run apart."""
        size = (self.height or task.image_size[0], self.width or self.height or task.image_size[1])
        first = next(model.parameters(), None)
        device = torch.device("cpu") if first is None else first.device
        images = torch.zeros(1, task.in_channels, *size, device=device)
        features = getattr(model, "forward_features", None)
        classifier = getattr(model, "get_classifier", None)
        apart = "the network cannot be run without its head"
        head = set() if classifier is None else {id(one) for one in classifier().parameters()}
        found: dict[str, Any] = {
            "parameters": _millions(model.parameters()),
            "trainable": _millions(one for one in model.parameters() if one.requires_grad),
            "backbone_parameters": (
                apart if classifier is None else _millions(one for one in model.parameters() if id(one) not in head)
            ),
            "gmacs": round(multiply_accumulates(model, images) / 1e9, 5),
            "backbone_gmacs": apart if features is None else round(multiply_accumulates(features, images) / 1e9, 5),
            "image": list(size),
        }
        try:
            forward, backward = data.passes()
        except MixcoreError as error:
            return {**found, "training_multiplier": f"not known: {error}"}
        # a backward pass is twice the work of a forward one
        return {
            **found,
            "forward_passes": forward,
            "backward_passes": backward,
            "training_multiplier": round((forward + 2 * backward) / 3, 4),
        }
