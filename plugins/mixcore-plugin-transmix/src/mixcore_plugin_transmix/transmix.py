"""TransMix: "Attend to Mix for Vision Transformers", CVPR 2022, arXiv 2111.09833.

M mixed images, S sources, h w the grid of patches.
"""

from __future__ import annotations

from typing import Literal

import attrs
import torch
from attrs.validators import ge, in_, le
from torch import Tensor

from mixcore.api import (
    LAST_STAGE,
    ForwardOutput,
    Mix,
    Targets,
    attended_weights,
    attention_of,
    energy_of,
    hookimpl,
)

__all__ = ["TransMix", "masks_on_grid"]

Downsample = Literal["nearest", "area"]
Source = Literal["attention", "energy"]


def masks_on_grid(mix: Mix, height: int, width: int, downsample: Downsample = "nearest") -> Tensor:
    """All S masks of a mix on a grid, [M,S,height,width]: its nearest pixel, or the mean over its area."""
    return mix.masks_on(height, width) if downsample == "nearest" else mix.areas_on(height, width)


@attrs.define(eq=False, kw_only=True)
class TransMix:
    """Label weights by attention: half the area of each image in the mix, half the attention that falls on it."""

    role = "labels"

    r: float = attrs.field(default=0.5, validator=[ge(0), le(1)])
    """Weight of the area, the rest is that of the attention: 1 counts pixels only, 0 attention only (the paper)."""
    downsample: Downsample = attrs.field(default="nearest", validator=in_(("nearest", "area")))
    """How a mask comes to the grid of patches: the pixel at the patch's corner, or the mean over the patch."""
    source: Source = attrs.field(default="attention", validator=in_(("attention", "energy")))
    """"attention" of the last block: the class token's, or what patches receive; "energy" of the last stage."""

    @property
    def needs(self) -> frozenset[str]:
        """A mask that varies over the image, and what the source reads of the backbone."""
        return frozenset({"mask", "attention" if self.source == "attention" else "stages"})

    @property
    def stages(self) -> tuple[int | str, ...]:
        """The last stage, before the final norm: after it the energy is the same everywhere."""
        return (LAST_STAGE,) if self.source == "energy" else ()

    @hookimpl
    def mix_labels(self, mix: Mix, labels: Tensor, output: ForwardOutput) -> Targets:
        """The mix's sources with attended weights; its own where it has no masks, or constant ones."""
        if mix.varying_masks is None:
            return mix.targets(labels)
        with torch.no_grad():
            attention = energy_of(output) if self.source == "energy" else attention_of(output, *mix.images.shape[-2:])
            areas = mix.varying_masks.mean((2, 3), dtype=torch.float32)
            areas = torch.cat((areas, 1 - areas.sum(1, keepdim=True)), 1)
            height, width = attention.shape[-2:]
            masks = masks_on_grid(mix, height, width, self.downsample)
            return mix.targets(labels, attended_weights(areas, masks, attention, self.r))
