"""What a foreign loop hands over, held against what was said when its mixer or step was made."""

from __future__ import annotations

from typing import Any

import attrs
import torch
from torch import Tensor, nn

from mixcore.data.checks import layout
from mixcore.errors import DataError
from mixcore.mixers.companions import Companions
from mixcore.mixers.tensors import together
from mixcore.types import LabelKind, Task

__all__ = ["StepBatches", "check_images", "check_labels", "kind_of", "task_of"]


def task_of(
    num_classes: int,
    in_channels: int,
    image_size: tuple[int, int],
    label_kind: LabelKind,
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
) -> Task:
    """The task of a foreign loop; images count as not normalised unless `mean` and `std` say otherwise."""
    return Task(
        num_classes=num_classes,
        in_channels=in_channels,
        image_size=image_size,
        mean=(0.0,) * in_channels if mean is None else mean,
        std=(1.0,) * in_channels if std is None else std,
        label_kind=label_kind,
    )


def kind_of(labels: object) -> LabelKind:
    """What kind of labels these are, as their dtype says it."""
    return "soft" if isinstance(labels, Tensor) and labels.is_floating_point() else "class"


def _kinds_like(labels: Tensor) -> str:
    """The kinds that labels of this dtype can be, in words."""
    return "'soft' (rows over classes) or 'value' (numbers)" if kind_of(labels) == "soft" else "'class'"


def check_images(images: object) -> None:
    """Refuse images that no mixer takes: expected floating [N,C,H,W] without a graph, N > 0. Raises DataError."""
    if not isinstance(images, Tensor):
        raise DataError(f"images are a {type(images).__name__}; expected a floating tensor [N,C,H,W]")
    if not images.is_floating_point():
        raise DataError(
            f"images are {layout(images)}; mixing takes floating images: images.float() / 255, or "
            "v2.ToDtype(torch.float32, scale=True) at the end of torchvision's transforms"
        )
    if images.ndim == 3:
        raise DataError(
            f"images are {layout(images)}, which is one image; a whole batch [N,C,H,W] is mixed: call the mixer in "
            "the collate function or in the training loop"
        )
    if images.ndim != 4:
        raise DataError(f"images are {layout(images)}; expected floating [N,C,H,W]")
    if images.shape[0] == 0:
        raise DataError(f"images are {layout(images)}: there is no image to mix; leave empty batches out")
    if images.requires_grad:
        raise DataError("images require a gradient, and mixed images carry none; pass images.detach()")


def check_labels(labels: object, images: Tensor, kind: LabelKind, num_classes: int, *, read: bool) -> None:
    """Refuse labels that are not `kind` or not of these images: class labels int64 [N], all others floating [N,K].

    `read` says whether the values of class labels may be read, which waits for a device. Raises DataError.
    """
    if not isinstance(labels, Tensor):
        raise DataError(
            f"labels are a {type(labels).__name__}; expected int64 [N] or floating [N,{num_classes}]: "
            "torch.as_tensor(labels)"
        )
    if not together(labels.device, images.device):
        raise DataError(
            f"images are on {images.device}, labels on {labels.device}; bring them together: labels.to(images.device)"
        )
    if kind == "class":
        if labels.ndim != 1 or labels.dtype != torch.int64:
            way = "labels.float()" if labels.ndim == 2 and labels.shape[1] == num_classes else "labels.long()"
            raise DataError(f"labels are {layout(labels)}; expected int64 [N] or floating [N,{num_classes}]: {way}")
    elif labels.ndim != 2 or labels.shape[1] != num_classes:
        raise DataError(
            f"labels are {layout(labels)}; with num_classes={num_classes} they are floating [N,{num_classes}]"
            f"{': labels[:, None]' if num_classes == 1 and labels.ndim == 1 else ''}"
        )
    if labels.shape[0] != images.shape[0]:
        raise DataError(
            f"there are {labels.shape[0]} labels and {images.shape[0]} images; expected one label per image"
        )
    if kind == "class" and read and not labels.is_meta:
        least, most = _bounds(labels)
        if least < 0 or most >= num_classes:
            raise DataError(
                f"labels run from {least} to {most}; with num_classes={num_classes} they lie in 0..{num_classes - 1}"
            )


def _bounds(labels: Tensor) -> tuple[int, int]:
    """Least and greatest label, read on the host.

    Subclasses are passed by: one that guards methods against such reads (mixcore.testing.Tripwire) does not mean this
    one, which is made where it costs nothing or only once.
    """
    with torch._C.DisableTorchFunctionSubclass():
        least, most = labels.aminmax()
        return int(least), int(most)


@attrs.define(eq=False)
class StepBatches:
    """Checks each batch before a foreign step takes it: a pre-hook of the step's forward.

    Values of labels are read on the CPU, elsewhere in the first batch only: reading waits for the device.
    """

    task: Task
    companions: Companions
    _seen: bool = attrs.field(default=False, init=False)

    def __call__(self, _step: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
        """Raises DataError for images and labels that are not the task's, and for maps and augmentations that lack.

        Images and labels that are missing forward says itself.
        """
        told = {**dict(zip(("images", "labels"), arguments, strict=False)), **named}
        if not {"images", "labels"} <= told.keys():
            return
        images, labels, kind = told["images"], told["labels"], self.task.label_kind
        check_images(images)
        if images.shape[1] != self.task.in_channels:
            raise DataError(
                f"images are {layout(images)}, and the step was made with in_channels={self.task.in_channels}; "
                f"say in_channels={images.shape[1]} in create_step"
            )
        if isinstance(labels, Tensor) and (kind_of(labels) == "class") != (kind == "class"):
            raise DataError(
                f"labels are {layout(labels)}, and the step was made with label_kind={kind!r}; "
                f"say label_kind={_kinds_like(labels)} in create_step"
            )
        check_labels(labels, images, kind, self.task.num_classes, read=images.device.type == "cpu" or not self._seen)
        self.companions.check(images, told.get("index"), told.get("maps"), told.get("augmented", ()))
        self._seen = True
