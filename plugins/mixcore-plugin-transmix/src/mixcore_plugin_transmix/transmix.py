"""TransMix: "Attend to Mix for Vision Transformers", CVPR 2022, arXiv 2111.09833.

M mixed images, S sources, h w the grid of patches.
"""

from __future__ import annotations

from typing import Literal

import attrs
import torch
from attrs.validators import ge, in_, le
from torch import Tensor

from mixcore.api import ForwardOutput, Mix, Targets, grid_of, hookimpl

__all__ = ["TransMix", "attended_weights", "masks_on_grid"]

Downsample = Literal["nearest", "area"]
Source = Literal["attention", "energy"]

LAST_STAGE = -1
LEAST_ATTENTION = 1e-12


def attended_weights(areas: Tensor, masks: Tensor, attention: Tensor, r: float = 0.5) -> Tensor:
    """r · area + (1-r) · share of the attention that falls on each source (steps 5 and 6 of the method); [M,S] float32.

    `areas` [M,S] are the means of the masks, `masks` [M,S,h,w] the same masks on the grid of `attention` [M,h,w] >= 0,
    of any total. What a mask is above its mean is weighed, so that a constant mask has its own weight to the bit.
    """
    attention = attention.float()
    total = attention.sum((1, 2)).clamp(min=LEAST_ATTENTION)
    above = masks.float() - areas[:, :, None, None]
    excess = torch.einsum("mshw,mhw->ms", above, attention) / total[:, None]
    return (areas + (1 - r) * excess).clamp(0, 1)


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
    def stages(self) -> tuple[int, ...]:
        """The last stage, before the final norm: after it the energy is the same everywhere."""
        return (LAST_STAGE,) if self.source == "energy" else ()

    @hookimpl
    def mix_labels(self, mix: Mix, labels: Tensor, output: ForwardOutput) -> Targets:
        """The mix's sources with attended weights; its own where it has no masks, or constant ones."""
        if mix.masks is None or mix.masks.shape[-2:] == (1, 1):
            return mix.targets(labels)
        with torch.no_grad():
            attention = self._attention(output, mix)
            areas = mix.masks.mean((2, 3), dtype=torch.float32)
            areas = torch.cat((areas, 1 - areas.sum(1, keepdim=True)), 1)
            height, width = attention.shape[-2:]
            masks = masks_on_grid(mix, height, width, self.downsample)
            return mix.targets(labels, attended_weights(areas, masks, attention, self.r))

    def _attention(self, output: ForwardOutput, mix: Mix) -> Tensor:
        """[M,h,w] of the forward of the mixed images."""
        if self.source == "energy":
            return output.stages[LAST_STAGE].detach().float().square().sum(1)
        weights = output.attention[-1].on_patches()
        return weights.unflatten(1, grid_of(weights.shape[1], *mix.images.shape[-2:]))
