"""Transforms of image folders, in the words of torchvision and timm."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, TypeAlias

import torch
from PIL.Image import Image, Resampling
from timm.data.auto_augment import rand_augment_transform
from timm.data.random_erasing import RandomErasing
from torch import Tensor
from torchvision import transforms
from torchvision.transforms import InterpolationMode

__all__ = ["Interpolation", "evaluation_transform", "rand_augment", "training_transform"]

Interpolation: TypeAlias = Literal["bilinear", "bicubic"]
Transform: TypeAlias = Callable[[Image], Tensor]


class Normalise:
    """uint8 [C,H,W] -> float32, (u/255 - mean) / std per channel."""

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        self.mean, self.std = (torch.tensor(values)[:, None, None] for values in (mean, std))

    def __call__(self, image: Tensor) -> Tensor:
        return image.float().div_(255).sub_(self.mean).div_(self.std)


def rand_augment(words: str, mean: tuple[float, ...]) -> Callable[[Image], Image]:
    """timm's RandAugment for a string such as "rand-m9-mstd0.5-inc1". Raises ValueError for one it does not know."""
    options = {"img_mean": tuple(min(255, round(255 * value)) for value in mean), "interpolation": Resampling.BICUBIC}
    try:
        if not words.startswith("rand-"):
            raise ValueError("it does not start with rand-")
        return rand_augment_transform(words, options)
    except (AssertionError, KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f'{words!r} is no RandAugment of timm ({error}); expected a string such as "rand-m7-mstd0.5-inc1"'
        ) from error


def training_transform(
    *,
    size: int,
    scale: tuple[float, float],
    ratio: tuple[float, float],
    interpolation: Interpolation,
    flip: float,
    augment: str,
    erasing: float,
    mean: tuple[float, ...],
    std: tuple[float, ...],
) -> Transform:
    """Random resized crop, mirror image, RandAugment; with `erasing`, normalised and then erased by noise.

    The result is uint8 [3,size,size], or float32 where something was erased after normalisation.
    """
    steps: list[Any] = [
        transforms.RandomResizedCrop(size, scale, ratio, interpolation=InterpolationMode(interpolation)),
        transforms.RandomHorizontalFlip(flip),
    ]
    if augment:
        steps.append(rand_augment(augment, mean))
    steps.append(transforms.PILToTensor())
    if erasing:
        steps.append(Normalise(mean, std))
        # timm's own bounds are the published ones: area 2 to 33 %, sides at most 10 to 3.
        steps.append(RandomErasing(erasing, mode="pixel", device="cpu"))
    return transforms.Compose(steps)


def evaluation_transform(size: int, crop_ratio: float, interpolation: Interpolation) -> Transform:
    """Short side resized to size / crop_ratio (rounded), then the centre [3,size,size], uint8."""
    return transforms.Compose(
        [
            transforms.Resize(round(size / crop_ratio), interpolation=InterpolationMode(interpolation)),
            transforms.CenterCrop(size),
            transforms.PILToTensor(),
        ]
    )
