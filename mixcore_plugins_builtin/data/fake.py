"""A synthetic data set, for trying recipes without data."""

from __future__ import annotations

import attrs
import torch
import torch.nn.functional as F
from attrs.validators import min_len, optional
from torch import Generator, Tensor

from mixcore.api import Data, all_positive, hookimpl
from mixcore_plugins_builtin.data.options import (
    MOST_CLASSES,
    MOST_SIDE,
    ResidentOptions,
    all_finite,
    between,
    check_memory,
    probability,
)

__all__ = ["Fake"]

COARSE = 4
"""Cells per side of the pattern that makes a class."""
MOST_CHANNELS = 1000
MOST_IMAGES = 10**9


@attrs.define(eq=False, kw_only=True)
class Fake(ResidentOptions):
    """Seeded images whose class is recoverable: a coarse random pattern per class under noise.

    Shapes: uint8 [n,channels,size,size]. With `object_map` the pattern is seen inside a disc only, of random place and
    size, beside which there is nothing but noise.
    """

    role = "data"
    gives_maps = 'object_map = "{name}"'

    size: int = attrs.field(default=32, validator=between(COARSE, MOST_SIDE))
    """Height and width in pixels, from 4 to 8192."""
    channels: int = attrs.field(default=3, validator=between(1, MOST_CHANNELS))
    """Channels, from 1 to 1000."""
    num_classes: int = attrs.field(default=10, validator=between(2, MOST_CLASSES))
    """Classes, at least 2; images come in turn from each."""
    train_images: int = attrs.field(default=1000, validator=between(1, MOST_IMAGES))
    """Training images, at least 1."""
    validation_images: int = attrs.field(default=200, validator=between(1, MOST_IMAGES))
    """Validation images, at least 1."""
    noise: float = attrs.field(default=0.25, validator=probability)
    """Share of an image that is noise, in [0,1]; at 1 the class is lost."""
    data_seed: int = attrs.field(default=0, validator=between(-(2**63), 2**64 - 1))
    """Seed of the images; another seed gives another set."""
    crop_padding: int = attrs.field(default=0, validator=between(0, MOST_SIDE))
    """Pixels added on every side before a random crop of the original size; 0: no crop."""
    flip: float = attrs.field(default=0.0, validator=probability)
    """Probability of the left-right mirror image, in [0,1]."""
    mean: tuple[float, ...] = attrs.field(default=(0.5,), validator=all_finite)
    """Subtracted from pixels in [0,1]; one number stands for all channels."""
    std: tuple[float, ...] = attrs.field(default=(0.25,), validator=all_positive)
    """Pixels are divided by this after the mean is subtracted; above 0."""
    object_map: str | None = attrs.field(default=None, validator=optional(min_len(1)))
    """Name of a map to give, such as "object": 1 inside a disc, which alone shows the class; absent: no disc."""

    @hookimpl
    def build_data(self) -> Data:
        """The two sets, the same for the same options."""
        images = self.num_classes + self.train_images + self.validation_images
        check_memory(
            "data.size, data.channels, data.num_classes, data.train_images and data.validation_images",
            images * (self.channels + bool(self.object_map)) * self.size**2,
        )
        rng = torch.Generator().manual_seed(self.data_seed)
        coarse = torch.rand(self.num_classes, self.channels, COARSE, COARSE, generator=rng)
        patterns = F.interpolate(coarse, (self.size, self.size), mode="nearest")
        train = noisy_patterns(patterns, self.train_images, self.noise, rng)
        validation = noisy_patterns(patterns, self.validation_images, self.noise, rng)
        if self.object_map is None:
            return self.resident_data(train, validation, self.num_classes)
        objects = discs(self.train_images, self.size, rng)
        train = (beside_noise(train[0], objects, rng), train[1])
        hidden = discs(self.validation_images, self.size, rng)
        validation = (beside_noise(validation[0], hidden, rng), validation[1])
        maps = {self.object_map: objects.to(torch.uint8) * 255}
        return self.resident_data(train, validation, self.num_classes, maps=maps)


def noisy_patterns(patterns: Tensor, count: int, noise: float, rng: Generator) -> tuple[Tensor, Tensor]:
    """Images uint8 [count,C,H,W] and labels int64 [count] from one pattern [K,C,H,W] in [0,1] per class."""
    labels = torch.arange(count) % len(patterns)
    noises = torch.rand(count, *patterns.shape[1:], generator=rng)
    return ((1 - noise) * patterns[labels] + noise * noises).mul_(255).round_().to(torch.uint8), labels


def discs(count: int, size: int, rng: Generator) -> Tensor:
    """bool [count,1,size,size]: a disc each, its centre in the middle half, its radius a quarter to half of a side."""
    places = (1 + 2 * torch.rand(count, 2, generator=rng)) * size / 4
    radii = (1 + torch.rand(count, generator=rng)) * size / 4
    pixels = torch.arange(size) + 0.5
    down, right = ((pixels - places[:, axis, None]) ** 2 for axis in (0, 1))
    return (down[:, None, :, None] + right[:, None, None, :]) <= radii[:, None, None, None] ** 2


def beside_noise(images: Tensor, objects: Tensor, rng: Generator) -> Tensor:
    """The images uint8 [n,C,H,W] where their objects bool [n,1,H,W] are, elsewhere noise."""
    noise = torch.randint(256, images.shape, generator=rng, dtype=torch.uint8)
    return torch.where(objects, images, noise)
