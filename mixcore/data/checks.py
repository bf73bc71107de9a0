"""What a data plugin gave, held against its task. Everything here is read on the host, before it goes to the device."""

from __future__ import annotations

import torch
from torch import Tensor

from mixcore.errors import DataError
from mixcore.types import Resident, Task

__all__ = ["check_image", "check_labels", "check_resident"]


def _layout(tensor: Tensor) -> str:
    return f"{tensor.dtype} {list(tensor.shape)}".replace("torch.", "")


def check_labels(labels: Tensor, task: Task, where: str) -> None:
    """Refuse labels [N] or [N,K] of another kind than the task's, or class labels outside [0, K). Raises DataError."""
    if task.label_kind == "class":
        if labels.ndim != 1 or labels.dtype != torch.int64:
            raise DataError(f"labels of {where} are {_layout(labels)}; class labels are int64 [N]")
        lowest, highest = (int(value) for value in labels.aminmax())
        if lowest < 0 or highest >= task.num_classes:
            raise DataError(
                f"labels of {where} run from {lowest} to {highest}; with {task.num_classes} classes they must lie in "
                f"0..{task.num_classes - 1}; correct the labels or the number of classes"
            )
    elif labels.ndim != 2 or labels.shape[1] != task.num_classes or not labels.is_floating_point():
        raise DataError(
            f"labels of {where} are {_layout(labels)}; labels of kind {task.label_kind!r} are floating "
            f"[N,{task.num_classes}]"
        )


def check_resident(resident: Resident, task: Task, where: str) -> None:
    """Refuse images that are no uint8 [n,C,H,W] of the task, none at all, or labels that do not fit. DataError."""
    images, labels = resident.images, resident.labels
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] != task.in_channels:
        raise DataError(f"images of {where} are {_layout(images)}; expected uint8 [n,{task.in_channels},H,W]")
    if len(images) == 0:
        raise DataError(f"{where} is empty; a run needs at least one image in it")
    if len(labels) != len(images):
        raise DataError(f"{where} has {len(images)} images and {len(labels)} labels; expected one label per image")
    check_labels(labels, task, where)


def check_image(image: object, where: str) -> Tensor:
    """The image of one sample, a tensor [C,H,W], uint8 or floating. Raises DataError for anything else."""
    if isinstance(image, Tensor) and image.ndim == 3 and (image.dtype == torch.uint8 or image.is_floating_point()):
        return image
    found = _layout(image) if isinstance(image, Tensor) else type(image).__name__
    raise DataError(
        f"{where} gave an image as {found}; expected a tensor [C,H,W], uint8 or floating and normalised: end the "
        "transforms with torchvision.transforms.PILToTensor()"
    )
