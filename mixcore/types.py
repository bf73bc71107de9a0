"""What passes between the core and plugins.

Letters, here and in every tensor module: N batch, M mixed images, C channels, H W pixels, h w any smaller grid,
K classes, S sources of a mixed image, T patch tokens, P prefix tokens, D features.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal, Protocol, TypeAlias

import attrs
import torch
from torch import Generator, Tensor, nn

from mixcore.autocast import autocast_off
from mixcore.errors import MixcoreError
from mixcore.rng import keyed_generator

__all__ = [
    "Attention",
    "Augment",
    "Batch",
    "Data",
    "ForwardOutput",
    "LabelKind",
    "Mix",
    "Part",
    "Resident",
    "Stage",
    "Step",
    "Targets",
    "Task",
]

LabelKind: TypeAlias = Literal["class", "soft", "multi_label", "value"]
Stage: TypeAlias = str | int


class Augment(Protocol):
    """Random augmentation of a batch on its device, a pure function of the images and of uniform draws.

    The core draws the uniforms of the whole batch from one keyed generator and hands each process its rows, so that
    the augmented batches are the same on any number of processes.
    """

    @property
    def draws(self) -> int:
        """Uniform numbers per image."""
        ...

    def __call__(self, images: Tensor, uniforms: Tensor) -> Tensor:
        """uint8 [N,C,h,w] and float32 [N,draws] in [0,1) on the same device -> uint8 [N,C,H,W]."""
        ...


@attrs.frozen(eq=False, kw_only=True)
class Batch:
    """What travels from the loader to the hooks: `images` [N,C,H,W], `labels`, and what belongs to the same rows.

    Hooks name `images`, `labels`, or the whole `batch`. It unpacks as loops know it: `images, labels = batch`.
    """

    images: Tensor
    labels: Tensor
    index: Tensor | None = None
    """[N] int64 row of each sample in the training set; None in a foreign loop that does not tell."""
    maps: Mapping[str, Tensor] = attrs.field(factory=dict)
    """[N,c,H,W] by name, augmented together with the images."""
    augmented: tuple[Tensor, ...] = ()
    """Further augmentations of the same rows, [N,C,H,W] each: as many as a plugin of the run declares."""

    def __iter__(self) -> Iterator[Tensor]:
        """Images, then labels."""
        yield self.images
        yield self.labels

    def rows(self, rows: slice) -> Batch:
        """Some of the rows, as views."""
        return Batch(
            images=self.images[rows],
            labels=self.labels[rows],
            index=None if self.index is None else self.index[rows],
            maps={name: found[rows] for name, found in self.maps.items()},
            augmented=tuple(found[rows] for found in self.augmented),
        )


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

    def targets(self, labels: Tensor, weights: Tensor | None = None) -> Targets:
        """The mix's own sources with its own or the given `weights` [M,S]."""
        weights = self.weights if weights is None else weights
        return Targets(
            labels=labels, sources=self.sources, weights=weights.detach() if weights.requires_grad else weights
        )


@attrs.frozen(eq=False)
class Attention:
    """Self-attention of one block, from detached `queries` and `keys` [M,heads,P+T,d], averaged over heads.

    Rows of the matrix A = softmax(scale · q kᵀ) sum to 1 over all P+T columns. The sums are made when asked for: the
    whole matrix is never kept.
    """

    queries: Tensor
    keys: Tensor
    scale: float
    prefix: int
    class_token: bool = True
    """Whether the first prefix token is a class token; registers alone are none."""

    def row(self) -> Tensor:
        """[M,T] attention that the class token pays to the patches. MixcoreError for a network without one."""
        if self.prefix == 0 or not self.class_token:
            raise MixcoreError("this network has no class token; use received() instead of row()")
        return self._rows(self.queries[:, :, :1])[:, 0, self.prefix :]

    def received(self) -> Tensor:
        """[M,T] attention that each patch receives from all patches, averaged over them."""
        return self._rows(self.queries[:, :, self.prefix :]).mean(1)[:, self.prefix :]

    def on_patches(self) -> Tensor:
        """[M,T] how much each patch is looked at: row() where there is a class token, else received()."""
        return self.row() if self.prefix and self.class_token else self.received()

    def apply(self, weights: Tensor) -> Tensor:
        """A w, [M,P+T], for `weights` [M,P+T]."""
        return (self._rows(self.queries) * weights.float()[:, None]).sum(-1)

    def _rows(self, queries: Tensor) -> Tensor:
        """Rows of A for some of the queries, averaged over heads, in float32 under any autocast."""
        with autocast_off(queries.device):
            scores = self.scale * queries.float() @ self.keys.float().transpose(-2, -1)
            return scores.softmax(-1).mean(1)


@attrs.define(eq=False, kw_only=True)
class ForwardOutput:
    """What one forward of a network gave: `logits` [M,K] float32, and what was asked for beside it."""

    logits: Tensor
    _features: Tensor | None = None
    stages: Mapping[Stage, Tensor] = attrs.field(factory=dict)
    """[M,C,h,w] maps of the stages asked for, under the names that were asked."""
    attention: tuple[Attention, ...] = ()
    """Per block, where attention was asked for."""
    _pool: Callable[[Tensor], Tensor] | None = None
    _flatten: Callable[[Tensor], Tensor] | None = None
    _pooled: Tensor | None = None

    @property
    def features(self) -> Tensor:
        """What forward_features returned, with its graph. MixcoreError of a network without timm's interface."""
        if self._features is None:
            raise MixcoreError(
                "this network is a plain module, whose forward gives logits but no features, pooled or tokens; "
                "mixcore.as_backbone(module, features=..., classifier=...) gives it timm's interface, and a plugin "
                'that reads them has needs = frozenset({"features"}) on its class'
            )
        return self._features

    @property
    def pooled(self) -> Tensor:
        """[M,D] input of the head, computed at the first access."""
        if self._pooled is None:
            features = self.features
            assert self._pool is not None
            self._pooled = self._pool(features)
        return self._pooled

    @property
    def tokens(self) -> Tensor:
        """[M,T,D] features at the final positions, without prefix tokens."""
        features = self.features
        assert self._flatten is not None
        return self._flatten(features)


@attrs.frozen(eq=False, kw_only=True)
class Step:
    """Where the run is. `epoch` and `iteration` count from 0 over the whole run; the others are totals."""

    epoch: int
    epochs: int
    iteration: int
    iterations: int
    logging: bool = False
    may_overwrite: bool = False
    seed: int = 0
    group: int = 0
    device: torch.device = attrs.field(factory=lambda: torch.device("cpu"))

    @property
    def progress(self) -> float:
        """iteration / iterations."""
        return self.iteration / self.iterations

    def shared_rng(self, name: str) -> Generator:
        """A CPU generator that draws the same on every process, in every group, at every call with this name."""
        return keyed_generator(self.seed, self.epoch, self.iteration, "shared", name)

    def device_rng(self, name: str) -> Generator:
        """A generator on the device, for per-pixel noise: the only draws that depend on the device."""
        device = "cpu" if self.device.type == "meta" else self.device  # there are no generators of its own
        return keyed_generator(self.seed, self.epoch, self.iteration, self.group, "device", name, device=device)


@attrs.frozen(eq=False, kw_only=True)
class Task:
    """What is learnt: classes or values, image layout, and the normalisation that images come with."""

    num_classes: int
    in_channels: int
    image_size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    label_kind: LabelKind = "class"
    class_names: tuple[str, ...] | None = None
    """What the classes (or values) are called, `num_classes` names in the order of the labels; None: not known."""


@attrs.frozen(eq=False, kw_only=True)
class Resident:
    """A data set that fits in memory: `images` uint8 [n,C,H,W] and `labels` [n], kept on the training device.

    `augment` is applied to training batches and gives images of the task's size; None leaves them as they are.
    Normalisation is the loader's. `maps` are augmented together with the images, which needs an `augment` with the
    method `on_maps(maps, uniforms)`: a map uint8 [N,c,h,w] and the images' own uniforms -> uint8 [N,c,H,W].
    """

    images: Tensor
    labels: Tensor
    augment: Augment | None = None
    maps: Mapping[str, Tensor] = attrs.field(factory=dict)
    """uint8 [n,c,H,W] by name; a training batch has those that plugins read, float32 in [0,1]."""

    def __len__(self) -> int:
        return self.images.shape[0]


@attrs.frozen(eq=False, kw_only=True)
class Data:
    """What a data plugin builds. A Dataset is torch's map style and is read by worker processes.

    It gives (image, label) with image uint8 [C,H,W], normalised on the device, or floating and normalised already; it
    may draw from the global generators of python, numpy and torch, which the loader seeds per sample; it raises
    UnreadableSampleError for a sample that it cannot read. It may give (image, label, maps): maps by name, [c,H,W] of
    the image's size, uint8 or floating in [0,1]. Where plugins want further augmentations, a sample is read again for
    each.
    `repeats` > 1 asks for repeated augmentation: each image that many times in a row, in an epoch of unchanged length.
    """

    train: torch.utils.data.Dataset[Any] | Resident
    validation: torch.utils.data.Dataset[Any] | Resident
    task: Task
    repeats: int = 1
    evaluation: Mapping[str, torch.utils.data.Dataset[Any] | Resident] = attrs.field(factory=dict)
    """Further sets by name, read as the validation set is, that `mixcore eval` and analyses may use; not "val"."""


def _part_stages(value: Sequence[Stage]) -> tuple[Stage, ...]:
    return tuple(value)


@attrs.frozen(eq=False, kw_only=True)
class Part:
    """A module that a plugin adds to the run, and how the core treats it."""

    module: nn.Module
    optimizer: Mapping[str, float] | None = attrs.field(factory=dict)
    """Differences from [optimizer] and [schedule] (lr, min_lr, momentum, warmup_epochs, ...); None: frozen."""
    eval: bool = False
    """Stays in eval mode (a teacher)."""
    save: bool = True
    """Is in checkpoints; False where it comes from a file of its own."""
    stages: tuple[Stage, ...] = attrs.field(default=(), converter=_part_stages)
    """Stages that are read from it."""
    attention: bool = False
    """Its attention is read."""
