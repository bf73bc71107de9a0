"""What is learnt, and the data sets that it is learnt from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import attrs
import torch
from torch import Tensor

from mixcore.types.names import LabelKind

__all__ = ["Augment", "Data", "Resident", "Task"]


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
