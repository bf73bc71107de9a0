"""A mixed batch: what the network is fed, and what the loss is told of it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import attrs
import torch
from torch import Tensor
from torch.nn import functional as F

from mixcore.errors import MixcoreError
from mixcore.types.names import Stage

__all__ = ["Mix", "Targets"]


@attrs.frozen(eq=False, kw_only=True)
class Targets:
    """What the loss is told: labels, and for each mixed image the rows it came from with their label weights.

    `labels` are the batch's own, int64 [N] or float [N,K], or a teacher's. `sources` [M,S] int64 rows of `labels`,
    `weights` [M,S] float32, detached. `smooth = False` tells the loss that these must not be smoothed (again).
    """

    labels: Tensor
    sources: Tensor
    weights: Tensor
    smooth: bool = True

    def dense(self, num_classes: int, smoothing: float = 0.0) -> Tensor:
        """Target rows [M,K] float32: the weighted sum of the sources' labels, smoothed as (1-s)·t + s·(row sum)/K."""
        if self.labels.is_floating_point():
            rows = self.labels.float()[self.sources]
            dense = torch.einsum("ms,msk->mk", self.weights, rows)
        else:
            dense = self.weights.new_zeros(self.weights.shape[0], num_classes)
            dense.scatter_add_(1, self.labels.take(self.sources), self.weights)
        if smoothing and self.smooth:
            share = smoothing / num_classes * dense.sum(1, keepdim=True)
            dense = dense.mul_(1 - smoothing).add_(share)
        return dense


@functools.lru_cache(maxsize=64)
def _pair_constants(rows: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """What every pair mix of so many rows is made from, for reading only: a loop asks for the same every time.

    The rows themselves, int64 [rows], and the columns (0, 1) and (1, -1), float32 [rows,2]: at_zero + lam · slope are
    the weights, by one operation on the device and without a number travelling there.
    """
    at_zero = torch.zeros(rows, 2, dtype=torch.float32, device=device)
    at_zero[:, 1].fill_(1)
    return torch.arange(rows, device=device), at_zero, 1 - 2 * at_zero


@attrs.frozen(eq=False, kw_only=True)
class Mix:
    """One forward of the trained network: the images it is fed, where they came from, and their label weights.

    `images` [M,C,H,W]. `sources` [M,S] int64 rows of the batch and `weights` [M,S] float32. `masks` [M,S-1,h,w], the
    pixel weight of sources 0..S-2 (the last source has the rest), None where the mix has none; h and w divide H and W.
    """

    images: Tensor
    sources: Tensor
    weights: Tensor
    masks: Tensor | None = None
    stage: Stage | None = None
    """Mix inside the network: `transform` replaces the feature map at this stage, raw as the module gave it."""
    transform: Callable[[Tensor], Tensor] | None = None
    head: str | None = None
    """Name of one of the mixer's parts, pooled [M,D] -> logits [M,K]; None: the backbone's own head."""
    scale: float = 1.0
    """Factor of this view's loss."""
    views: tuple[Mix, ...] = ()
    """Further forwards, run before this one."""
    losses: Mapping[str, Tensor] = attrs.field(factory=dict)
    """Scalars that are known before the forward (a generator's loss)."""
    notes: Mapping[str, Tensor] = attrs.field(factory=dict)
    """[M,...] what later hooks of this iteration want back."""

    @classmethod
    def pair(cls, images: Tensor, partner: Tensor, lam: Tensor | float, mask: Tensor | None = None, **rest: Any) -> Mix:
        """The usual mix of two: source 0 is the image itself with weight `lam`, source 1 its `partner` [M].

        `lam` is [M], or one Python float for all rows. `mask` [M,1,h,w] is the weight of the image's own pixels.
        Raises MixcoreError for a `lam` of another shape.
        """
        own, at_zero, slope = _pair_constants(partner.shape[0], partner.device)
        if isinstance(lam, Tensor):
            if lam.ndim != 1:
                raise MixcoreError(
                    f"lam is a tensor of shape {list(lam.shape)}; expected [{partner.shape[0]}], one ratio per image, "
                    "or a Python float (mixcore.api.beta draws one)"
                )
            lam = lam.to(torch.float32)
            weights = torch.stack((lam, 1 - lam), 1)
        else:
            weights = torch.add(at_zero, slope, alpha=lam)
        return cls(
            images=images,
            sources=torch.stack((own, partner)).t(),
            weights=weights,
            masks=mask,
            **rest,
        )

    @classmethod
    def clean(cls, images: Tensor, **rest: Any) -> Mix:
        """Unmixed images: one source, the image itself, with weight 1."""
        rows = images.shape[0]
        return cls(
            images=images,
            sources=torch.arange(rows, device=images.device)[:, None],
            weights=torch.ones(rows, 1, dtype=torch.float32, device=images.device),
            **rest,
        )

    @property
    def partner(self) -> Tensor:
        """[M] row that each image is mixed with; of a clean mix, the image itself."""
        return self.sources[:, min(1, self.sources.shape[1] - 1)]

    @property
    def lam(self) -> Tensor:
        """[M] float32 weight of source 0."""
        return self.weights[:, 0]

    @property
    def mask(self) -> Tensor | None:
        """[M,1,h,w] pixel weight of source 0, None where the mix has no masks."""
        return None if self.masks is None else self.masks[:, :1]

    @property
    def varying_masks(self) -> Tensor | None:
        """The `masks`, where they can vary over the image: None without masks, and where these are of size 1x1."""
        return None if self.masks is None or self.masks.shape[-2:] == (1, 1) else self.masks

    def masks_on(self, height: int, width: int) -> Tensor:
        """All S masks [M,S,height,width] by nearest sampling, pixel (floor(i·h/height), floor(j·w/width)).

        Raises MixcoreError for a mix of several sources that has no masks.
        """
        rows, count = self.sources.shape
        if count == 1:
            return self.weights.new_ones(rows, 1, height, width)
        if self.masks is None:
            raise MixcoreError("this mix has no masks; use a mixer that combines images by a mask")
        masks = self.masks
        h, w = masks.shape[-2:]
        if h != height:
            masks = masks.index_select(2, torch.arange(height, device=masks.device) * h // height)
        if w != width:
            masks = masks.index_select(3, torch.arange(width, device=masks.device) * w // width)
        return torch.cat((masks, 1 - masks.sum(1, keepdim=True)), 1)

    def areas_on(self, height: int, width: int) -> Tensor:
        """Share of each source in each cell of a grid, [M,S,height,width] float32: means of the masks over cells.

        As :meth:`masks_on` where no cell cuts a block of the mask. Raises MixcoreError for a mix of several sources
        that has no masks.
        """
        if self.masks is None or self.sources.shape[1] == 1:
            return self.masks_on(height, width)
        areas = F.adaptive_avg_pool2d(self.masks.float(), (height, width))
        return torch.cat((areas, 1 - areas.sum(1, keepdim=True)), 1)

    def targets(self, labels: Tensor, weights: Tensor | None = None) -> Targets:
        """The mix's own sources with its own or the given `weights` [M,S]."""
        weights = self.weights if weights is None else weights
        return Targets(
            labels=labels, sources=self.sources, weights=weights.detach() if weights.requires_grad else weights
        )
