"""Transforms of images that workers read one at a time, in the words of torchvision and timm."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, TypeAlias

import attrs
import torch
from PIL import ImageOps
from PIL.Image import Image, Resampling
from PIL.Image import new as new_image
from timm.data.auto_augment import rand_augment_transform
from timm.data.random_erasing import RandomErasing
from torch import Tensor
from torchvision import transforms, tv_tensors
from torchvision.transforms import InterpolationMode, v2
from torchvision.transforms.v2 import functional as F

from mixcore.api import PaddingMode
from mixcore_plugins_builtin.data.fixmatch import FixMatchAugment

__all__ = [
    "Interpolation",
    "PaddedCrops",
    "TrainingTransform",
    "Transform",
    "evaluation_transform",
    "rand_augment",
    "rand_augment_words",
]

Interpolation: TypeAlias = Literal["bilinear", "bicubic"]
Transform: TypeAlias = Callable[[Image], Tensor]


class Normalise:
    """uint8 [C,H,W] -> float32, (u/255 - mean) / std per channel."""

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        self.mean, self.std = (torch.tensor(values)[:, None, None] for values in (mean, std))

    def __call__(self, image: Tensor) -> Tensor:
        return image.float().div_(255).sub_(self.mean).div_(self.std)


def rand_augment(words: str, mean: tuple[float, ...]) -> Callable[[Image], Image]:
    """timm's RandAugment for a string such as "rand-m9-mstd0.5-inc1", FixMatch's for "fixmatch-m7-mstd0.5".

    Raises ValueError for a string that neither knows.
    """
    if words.startswith("fixmatch"):
        return FixMatchAugment.of(words)
    options = {"img_mean": tuple(min(255, round(255 * value)) for value in mean), "interpolation": Resampling.BICUBIC}
    try:
        if not words.startswith("rand-"):
            raise ValueError("it does not start with rand-")
        augment = rand_augment_transform(words, options)
    except (AssertionError, KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f'{words!r} is no RandAugment of timm ({error}); expected a string such as "rand-m7-mstd0.5-inc1", or '
            '"fixmatch-m7-mstd0.5" for the operations of FixMatch'
        ) from error
    for operation in augment.ops:
        if operation.name.startswith("Posterize"):
            operation.aug_fn = _posterize
    return augment


def _posterize(image: Image, bits: int, **_further: Any) -> Image:
    """Keep so many bits; with none the image is black, where Pillow from version 13 on refuses."""
    return ImageOps.posterize(image, bits) if bits else new_image(image.mode, image.size)


def rand_augment_words(instance: object, attribute: attrs.Attribute[Any], value: str) -> None:  # noqa: ARG001
    """Validator: words that :func:`rand_augment` knows, or none."""
    if value:
        rand_augment(value, (0.5,))


class _Map(tv_tensors.Mask):
    """A map that is cropped and mirrored with its image; the values of the file are kept, none is made of two."""


@F.register_kernel(F.resized_crop, _Map)
def _resized_crop(
    found: _Map, top: int, left: int, height: int, width: int, size: list[int], **_of_images: Any
) -> _Map:
    """Each pixel is the one at its centre. Torchvision's own for masks takes one up to half a pixel beside it."""
    nearest = InterpolationMode.NEAREST_EXACT
    return _Map(F.resized_crop(found.as_subclass(Tensor), top, left, height, width, size, nearest, antialias=False))


@F.register_kernel(F.resize, _Map)
def _resize(found: _Map, size: list[int], **_of_images: Any) -> _Map:
    """The same of a map that is resized before it is cropped."""
    return _Map(F.resize(found.as_subclass(Tensor), size, InterpolationMode.NEAREST_EXACT, antialias=False))


class _Moved:
    """Moves of the image and its maps, mirror image, RandAugment; with `erasing`, normalised and then erased by noise.

    The result is uint8 [3,H,W], or float32 where something was erased after normalisation.
    """

    def __init__(
        self,
        moves: Sequence[Any],
        *,
        flip: float,
        augment: str,
        erasing: float,
        mean: tuple[float, ...],
        std: tuple[float, ...],
    ) -> None:
        self.move = v2.Compose([*moves, v2.RandomHorizontalFlip(flip)])
        steps: list[Any] = [rand_augment(augment, mean)] if augment else []
        steps.append(transforms.PILToTensor())
        if erasing:
            steps.append(Normalise(mean, std))
            # timm's own bounds are the published ones: area 2 to 33 %, sides at most 10 to 3.
            steps.append(RandomErasing(erasing, mode="pixel", device="cpu"))
        self.finish = transforms.Compose(steps)

    def __call__(self, image: Image) -> Tensor:
        """One image."""
        return self.finish(self.move(image))

    def with_maps(self, image: Image, maps: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """The image as it is without maps, and its maps uint8 [c,H,W], cropped and mirrored like it.

        RandAugment does not move them, and erasing leaves them whole.
        """
        moved, with_it = self.move(image, {name: _Map(found) for name, found in maps.items()})
        return self.finish(moved), {name: found.as_subclass(Tensor) for name, found in with_it.items()}


class TrainingTransform(_Moved):
    """Random resized crop to [3,size,size], then what all have; `resize` the short side first, where it is given."""

    def __init__(
        self,
        *,
        size: int,
        scale: tuple[float, float],
        ratio: tuple[float, float],
        interpolation: Interpolation,
        resize: int | None = None,
        **further: Any,
    ) -> None:
        how = InterpolationMode(interpolation)
        first = [] if resize is None else [v2.Resize(resize, interpolation=how)]
        super().__init__([*first, v2.RandomResizedCrop(size, scale, ratio, interpolation=how)], **further)


class PaddedCrops(_Moved):
    """Random crop of the image's own size, [3,size,size], out of its padded self, then what all have."""

    def __init__(self, *, size: int, padding: int, mode: PaddingMode, **further: Any) -> None:
        super().__init__([v2.RandomCrop(size, padding, padding_mode=mode)] if padding else [], **further)


def evaluation_transform(size: int, crop_ratio: float, interpolation: Interpolation) -> Transform:
    """Short side resized to size / crop_ratio (rounded), then the centre [3,size,size], uint8."""
    return transforms.Compose(
        [
            transforms.Resize(round(size / crop_ratio), interpolation=InterpolationMode(interpolation)),
            transforms.CenterCrop(size),
            transforms.PILToTensor(),
        ]
    )
