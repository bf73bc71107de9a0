"""What a data plugin gave, held against its task. Everything here is read on the host, before it goes to the device."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from numbers import Integral, Real

import attrs
import torch
from torch import Tensor

from mixcore.errors import DataError
from mixcore.types import Resident, Task

__all__ = [
    "check_image",
    "check_label",
    "check_labels",
    "check_resident",
    "check_sample_maps",
    "check_task",
    "has_maps",
    "layout",
]


def layout(tensor: Tensor) -> str:
    """Its dtype and shape, such as `uint8 [50, 3, 8, 8]`."""
    return f"{tensor.dtype} {list(tensor.shape)}".replace("torch.", "")


def check_labels(labels: Tensor, task: Task, where: str) -> Tensor:
    """The labels of a set or batch, [N] or [N,K] as the task's kind says; one value an image may come as [N].

    Raises DataError for labels of another kind, or class labels outside [0, K).
    """
    labels = _one_value_a_row(labels, task, 1)
    if task.label_kind == "class":
        if labels.ndim != 1 or labels.dtype != torch.int64:
            raise DataError(f"labels of {where} are {layout(labels)}; class labels are int64 [N]")
        lowest, highest = (int(value) for value in labels.aminmax())
        if lowest < 0 or highest >= task.num_classes:
            raise DataError(
                f"labels of {where} run from {lowest} to {highest}; with {task.num_classes} classes they must lie in "
                f"0..{task.num_classes - 1}; correct the labels or the number of classes"
            )
    elif labels.ndim != 2 or labels.shape[1] != task.num_classes or not labels.is_floating_point():
        raise DataError(
            f"labels of {where} are {layout(labels)}; labels of kind {task.label_kind!r} are floating "
            f"[N,{task.num_classes}]"
        )
    return labels


def _one_value_a_row(labels: Tensor, task: Task, dimensions: int) -> Tensor:
    """Labels of a single value with the dimension of the values, where they came without: [N] as [N,1]."""
    single = task.label_kind == "value" and task.num_classes == 1 and labels.is_floating_point()
    return labels.unsqueeze(-1) if single and labels.ndim == dimensions else labels


def check_resident(resident: Resident, task: Task, where: str) -> Resident:
    """The set, its labels [n] or [n,K] as the task's kind says.

    Raises DataError for images that are no uint8 [n,C,H,W] of the task, none at all, or labels that do not fit.
    """
    images, labels = resident.images, resident.labels
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] != task.in_channels:
        raise DataError(f"images of {where} are {layout(images)}; expected uint8 [n,{task.in_channels},H,W]")
    if len(images) == 0:
        raise DataError(f"{where} is empty; a run needs at least one image in it")
    if len(labels) != len(images):
        raise DataError(f"{where} has {len(images)} images and {len(labels)} labels; expected one label per image")
    labels = check_labels(labels, task, where)
    for name, found in resident.maps.items():
        fits = found.ndim == 4 and len(found) == len(images) and found.shape[2:] == images.shape[2:]
        if found.dtype != torch.uint8 or not fits:
            height, width = images.shape[2:]
            raise DataError(
                f"the map {name!r} of {where} is {layout(found)}; expected uint8 [{len(images)},c,{height},{width}], "
                "one for each image and of its size"
            )
    return attrs.evolve(resident, labels=labels)


def check_image(image: object, task: Task, where: str) -> Tensor:
    """The image of one sample, a tensor [C,H,W], uint8 or floating. Raises DataError for anything else."""
    if (
        isinstance(image, Tensor)
        and image.ndim == 3
        and image.shape[0] == task.in_channels
        and (image.dtype == torch.uint8 or image.is_floating_point())
    ):
        return image
    found = layout(image) if isinstance(image, Tensor) else type(image).__name__
    raise DataError(
        f"{where} gave an image as {found}; expected a tensor [{task.in_channels},H,W], uint8 or floating and "
        "normalised: end the transforms with torchvision.transforms.PILToTensor()"
    )


def has_maps(sample: object) -> bool:
    """Whether a sample is a triple (image, label, maps by name)."""
    return isinstance(sample, tuple | list) and len(sample) == 3 and isinstance(sample[2], Mapping)


def check_sample_maps(
    maps: Mapping[str, object], wanted: Collection[str], image: Tensor, where: str
) -> dict[str, Tensor]:
    """Those of one sample's maps that are wanted, [c,H,W] of its image's size, uint8 or floating. Raises DataError."""
    height, width = image.shape[-2:]
    checked = {}
    for name in wanted:
        if name not in maps:
            raise DataError(f"{where} has the maps {', '.join(map(str, maps)) or 'none'}; a plugin reads {name!r}")
        found = maps[name]
        if (
            not isinstance(found, Tensor)
            or found.ndim != 3
            or found.shape[1:] != image.shape[1:]
            or not (found.dtype == torch.uint8 or found.is_floating_point())
        ):
            told = layout(found) if isinstance(found, Tensor) else type(found).__name__
            raise DataError(
                f"{where} gave the map {name!r} as {told}; expected a tensor [c,{height},{width}] as its image is, "
                "uint8 or floating in [0,1]"
            )
        checked[name] = found
    return checked


def check_label(label: object, task: Task, where: str) -> Tensor:
    """The label of one sample, int64 [] or float32 [K] as the task says; a single value may come as a number.

    Raises DataError for anything else.
    """
    try:
        tensor = torch.as_tensor(label)
    except (TypeError, ValueError, RuntimeError) as error:
        raise DataError(f"{where} has the label {label!r:.50}, which is no number; {_expected(task)}") from error
    tensor = _one_value_a_row(tensor, task, 0)
    if task.label_kind == "class":
        fits = tensor.ndim == 0 and not (tensor.is_floating_point() or tensor.is_complex())
    else:
        fits = tuple(tensor.shape) == (task.num_classes,) and tensor.is_floating_point()
    if not fits:
        raise DataError(f"{where} has a label {layout(tensor)}; {_expected(task)}")
    return tensor.long() if task.label_kind == "class" else tensor.float()


def _expected(task: Task) -> str:
    if task.label_kind == "class":
        return f"class labels are integers from 0 to {task.num_classes - 1}"
    return f"labels of kind {task.label_kind!r} are floating [{task.num_classes}]"


def check_task(task: Task) -> None:
    """Refuse a task whose numbers cannot be, or whose normalisation gives pixels that are no numbers. DataError."""

    def wrong(name: str, found: object, expected: str) -> DataError:
        return DataError(f"the task of the data set has {name} {found!r:.80}; expected {expected}")

    for name, count in (("num_classes", task.num_classes), ("in_channels", task.in_channels)):
        if not _counts(count):
            raise wrong(name, count, "an integer of at least 1")
    size = task.image_size
    if not (isinstance(size, Sequence) and len(size) == 2 and all(map(_counts, size))):
        raise wrong("image_size", size, "height and width, two integers of at least 1")
    channels = f"one for each of {task.in_channels} channels"
    if not _finite(task.mean, task.in_channels):
        raise wrong("mean", task.mean, f"finite numbers, {channels}")
    if not _finite(task.std, task.in_channels) or min(task.std) <= 0:
        raise wrong("std", task.std, f"finite numbers above 0, {channels}")
    _check_class_names(task)
    darkest = torch.tensor(task.mean, dtype=torch.float64) / torch.tensor(task.std, dtype=torch.float64)
    factors = torch.cat((darkest, 1 / torch.tensor(task.std, dtype=torch.float64)))
    if not factors.float().isfinite().all():
        raise wrong("mean and std", (task.mean, task.std), "numbers that keep (pixel - mean) / std finite in float32")


def _check_class_names(task: Task) -> None:
    names = task.class_names
    if names is None:
        return
    if not isinstance(names, Sequence) or isinstance(names, str) or not all(isinstance(name, str) for name in names):
        raise DataError(f"the task of the data set has class_names {names!r:.80}; expected a tuple of strings, or None")
    if len(names) != task.num_classes:
        raise DataError(
            f"the task of the data set has {len(names)} class_names for {task.num_classes} classes; expected one name "
            "per class, or None"
        )


def _counts(value: object) -> bool:
    return isinstance(value, Integral) and int(value) >= 1


def _finite(values: object, count: int) -> bool:
    if not isinstance(values, Sequence) or len(values) != count:
        return False
    return all(isinstance(value, Real) and math.isfinite(value) for value in values)
