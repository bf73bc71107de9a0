"""TokenMix, the label policy: each image counts by how much of its own content is still seen.

M mixed images, S sources, N images of the batch, g cells a side of the grid on which content is weighed.
"""

from __future__ import annotations

import attrs
import torch
from attrs.validators import ge
from torch import Tensor
from torch.nn import functional as F

from mixcore.api import Mix, Probe, Saliency, Targets, as_saliency, hookimpl

__all__ = ["TokenMixLabels", "content_on_grid", "content_weights", "masks_on_grid"]

NO_CONTENT = 1e-8


def content_weights(content: Tensor, masks: Tensor, sources: Tensor) -> Tensor:
    """Share of each source's own content that its mask leaves, [M,S] float32 in [0,1] (step 5).

    `content` [N,g,g] >= 0 of any total, `masks` [M,S,g,g], `sources` int64 [M,S] rows of `content`. Rows need not sum
    to 1; an image without content weighs 0.
    """
    content = content.float()
    shares = content / (content.sum((1, 2), keepdim=True) + NO_CONTENT)
    return (shares[sources] * masks).sum((2, 3)).clamp(0, 1)


def content_on_grid(content: Tensor, grid: int) -> Tensor:
    """[N,h,w] -> [N,grid,grid] float32: a coarser map bilinearly, a finer one by means over cells."""
    content = content.float()
    if content.shape[1] > grid or content.shape[2] > grid:
        return _means(content, grid)
    if content.shape[-2:] == (grid, grid):
        return content
    return F.interpolate(content[:, None], size=(grid, grid), mode="bilinear", align_corners=False)[:, 0]


def masks_on_grid(masks: Tensor, grid: int) -> Tensor:
    """Masks [M,S-1,h,w] of all but the last source -> [M,S,grid,grid] float32: means over cells, the last has the rest.

    Cells that cut a block of the mask take its parts by area, so that each mask keeps its mean.
    """
    masks = masks.float()
    if masks.shape[-2:] != (grid, grid):
        masks = _means(masks, grid)
    return torch.cat((masks, 1 - masks.sum(1, keepdim=True)), 1)


def _means(maps: Tensor, grid: int) -> Tensor:
    """[..,h,w] -> [..,grid,grid], the mean over each cell, whose borders may cut what they divide."""
    rows, columns = (_overlap(grid, size, maps.device) for size in maps.shape[-2:])
    return rows @ maps @ columns.T


def _overlap(grid: int, size: int, device: torch.device) -> Tensor:
    """[grid,size] float32: which share of a cell each of `size` equal parts covers; whole numbers until the end."""
    cells = torch.arange(grid, device=device)[:, None] * size
    parts = torch.arange(size, device=device) * grid
    common = torch.minimum(cells + size, parts + grid) - torch.maximum(cells, parts)
    return common.clamp(min=0).float() / size


def _with_its_teacher(_: object, attribute: attrs.Attribute[Saliency], value: Saliency) -> None:
    """No teacher knows every task, so the default cannot name one."""
    if value.plugin is None and value.name == "teacher_class_probability" and "teacher" not in value.options:
        raise ValueError(
            f'{attribute.name} = "teacher_class_probability" needs a teacher of this task: [labels] name = '
            f'"tokenmix_labels", {attribute.name} = {{ name = "teacher_class_probability", teacher = "resnet50", '
            f'weights = "FILE" }}; without one, {attribute.name} = "attention" asks the trained network itself, '
            '"uniform" weighs areas'
        )


@attrs.define(eq=False, kw_only=True)
class TokenMixLabels:
    """Label weights by content: how much of each image's own content is still seen, for the masks of any mixer."""

    role = "labels"
    spec_version = (1, 2)
    needs = frozenset({"mask"})
    reads_partner_pixels = True
    contract = {"weights_sum_to_one": False}

    saliency: Saliency = attrs.field(
        default=Saliency("teacher_class_probability"), converter=as_saliency, validator=_with_its_teacher
    )
    """Where content is: any plugin of role saliency; those of a teacher need one that knows the task."""
    grid: int = attrs.field(default=14, validator=ge(1))
    """Cells a side of the grid on which content is weighed."""

    @hookimpl
    def mix_labels(self, mix: Mix, images: Tensor, labels: Tensor, probe: Probe) -> Targets:
        """The mix's sources, each by its own content; the mix's own weights without masks, or over constant ones."""
        masks = mix.varying_masks
        if masks is None:
            return mix.targets(labels)
        with torch.no_grad():
            content = content_on_grid(probe.saliency(self.saliency, images, labels), self.grid)
            return mix.targets(labels, content_weights(content, masks_on_grid(masks, self.grid), mix.sources))
