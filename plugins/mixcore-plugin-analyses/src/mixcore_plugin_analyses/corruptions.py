"""Corruptions of CIFAR images that need no files of their own, with the severities of CIFAR-10-C and CIFAR-100-C.

After Hendrycks and Dietterich (2019). Pixels are in [0,1], [N,C,H,W]; draws come from the generator. The published
benchmark is read from its files; what is generated here is not comparable with published numbers.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Generator, Tensor

__all__ = ["GENERATED", "SEVERITIES", "corrupt"]

SEVERITIES = range(1, 6)
Corruption: TypeAlias = Callable[[Tensor, Any, Generator], Tensor]


def _noise(x: Tensor, rng: Generator) -> Tensor:
    return torch.randn(x.shape, generator=rng)


def gaussian_noise(x: Tensor, sigma: float, rng: Generator) -> Tensor:
    """Normal noise of deviation sigma."""
    return x + sigma * _noise(x, rng)


def speckle_noise(x: Tensor, sigma: float, rng: Generator) -> Tensor:
    """Normal noise in proportion to the pixel."""
    return x + x * sigma * _noise(x, rng)


def shot_noise(x: Tensor, photons: float, rng: Generator) -> Tensor:
    """Poisson noise of so many photons for white."""
    return torch.poisson(x.clamp(0, 1) * photons, generator=rng) / photons


def impulse_noise(x: Tensor, amount: float, rng: Generator) -> Tensor:
    """Salt and pepper, half each, on that share of the values."""
    draw = torch.rand(x.shape, generator=rng)
    return torch.where(draw < amount / 2, 0.0, torch.where(draw < amount, 1.0, x))


def _blurred(x: Tensor, kernel: Tensor) -> Tensor:
    """Correlation of every channel with a kernel [h,w] of odd sides, edges mirrored."""
    channels, (height, width) = x.shape[1], kernel.shape
    padded = F.pad(x, (width // 2, width // 2, height // 2, height // 2), mode="reflect")
    return F.conv2d(padded, kernel.expand(channels, 1, -1, -1), groups=channels)


def _bell(sigma: float, radius: int) -> Tensor:
    at = torch.arange(-radius, radius + 1, dtype=torch.float32)
    bell = (-at.square() / (2 * sigma**2)).exp()
    return bell / bell.sum()


def gaussian_blur(x: Tensor, sigma: float, _rng: Generator) -> Tensor:
    """Gaussian filter, cut at four deviations."""
    bell = _bell(sigma, max(1, int(4 * sigma + 0.5)))
    return _blurred(x, bell[:, None] * bell[None, :])


def defocus_blur(x: Tensor, parameters: tuple[float, float], _rng: Generator) -> Tensor:
    """A disk of that radius, its edge smoothed by a Gaussian of that deviation."""
    radius, sigma = parameters
    reach = max(3, round(radius) + 2)
    at = torch.arange(-reach, reach + 1, dtype=torch.float32)
    disk = ((at[:, None].square() + at[None, :].square()) <= radius**2).float()
    bell = _bell(sigma, 1)
    return _blurred(x, _blurred((disk / disk.sum())[None, None], bell[:, None] * bell[None, :])[0, 0])


def zoom_blur(x: Tensor, largest: float, _rng: Generator) -> Tensor:
    """Mean of the image and its middle enlarged by 1, 1.01, ... up to the factor."""
    factors = [1 + number / 100 for number in range(round((largest - 1) * 100) + 1)]
    return (x + sum(_zoomed(x, factor) for factor in factors)) / (len(factors) + 1)


def _zoomed(x: Tensor, factor: float) -> Tensor:
    height, width = x.shape[-2:]
    rows, columns = int(np.ceil(height / factor)), int(np.ceil(width / factor))
    top, left = (height - rows) // 2, (width - columns) // 2
    middle = x[..., top : top + rows, left : left + columns]
    return F.interpolate(middle, size=(height, width), mode="bilinear", align_corners=False)


def glass_blur(x: Tensor, parameters: tuple[float, int, int], rng: Generator) -> Tensor:
    """Blurred, pixels exchanged with neighbours from the last to the first, blurred again."""
    sigma, shift, rounds = parameters
    found = gaussian_blur(x, sigma, rng).clone()
    height, width = x.shape[-2:]
    for _ in range(rounds):
        for row in range(height - shift - 1, shift - 1, -1):
            for column in range(width - shift - 1, shift - 1, -1):
                by = torch.randint(-shift, shift, (2,), generator=rng).tolist()
                other = (row + by[0], column + by[1])
                kept = found[..., row, column].clone()
                found[..., row, column] = found[..., other[0], other[1]]
                found[..., other[0], other[1]] = kept
    return gaussian_blur(found, sigma, rng)


def fog(x: Tensor, parameters: tuple[float, float], rng: Generator) -> Tensor:
    """A cloud of plasma on every image, then as bright as before."""
    strength, decay = parameters
    clouds = torch.stack([_plasma(max(x.shape[-2:]), decay, rng) for _ in range(len(x))])
    most = x.amax((1, 2, 3), keepdim=True)
    return (x + strength * clouds[:, None, : x.shape[-2], : x.shape[-1]]) * most / (most + strength)


def _plasma(size: int, decay: float, rng: Generator) -> Tensor:
    """A diamond-square fractal in [0,1] of at least `size` x `size`, whose roughness falls by `decay` per level."""
    side = 1 << max(1, (size - 1).bit_length())
    cloud, step, rough = torch.zeros(side, side), side, 1.0

    def wobbled(mean: Tensor) -> Tensor:
        return mean + rough * (2 * torch.rand(mean.shape, generator=rng) - 1)

    while step >= 2:
        half = step // 2
        corners = cloud[::step, ::step]
        right, below = corners.roll(-1, 1), corners.roll(-1, 0)
        cloud[half::step, half::step] = wobbled((corners + right + below + right.roll(-1, 0)) / 4)
        middle = cloud[half::step, half::step]
        cloud[::step, half::step] = wobbled((corners + right + middle + middle.roll(1, 0)) / 4)
        cloud[half::step, ::step] = wobbled((corners + below + middle + middle.roll(1, 1)) / 4)
        step, rough = half, rough / decay
    cloud = cloud - cloud.min()
    return cloud / cloud.max()


def brightness(x: Tensor, more: float, _rng: Generator) -> Tensor:
    """Added to the value in HSV."""
    hue, saturation, value = _to_hsv(x)
    return _from_hsv(hue, saturation, (value + more).clamp(0, 1))


def saturate(x: Tensor, parameters: tuple[float, float], _rng: Generator) -> Tensor:
    """Saturation in HSV times the first, plus the second."""
    hue, saturation, value = _to_hsv(x)
    return _from_hsv(hue, (saturation * parameters[0] + parameters[1]).clamp(0, 1), value)


def _to_hsv(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    red, green, blue = _as_colour(x).unbind(1)
    value, spread = x.amax(1), x.amax(1) - x.amin(1)
    safe = spread.clamp(min=1e-12)
    hue = torch.where(
        value == red,
        (green - blue) / safe,
        torch.where(value == green, 2 + (blue - red) / safe, 4 + (red - green) / safe),
    )
    return hue % 6, spread / value.clamp(min=1e-12), value


def _from_hsv(hue: Tensor, saturation: Tensor, value: Tensor) -> Tensor:
    def channel(offset: int) -> Tensor:
        place = (offset + hue) % 6
        return value - value * saturation * torch.minimum(place, 4 - place).clamp(0, 1)

    return torch.stack([channel(5), channel(3), channel(1)], 1)


def _as_colour(x: Tensor) -> Tensor:
    return x if x.shape[1] == 3 else x[:, :1].expand(-1, 3, -1, -1)


def contrast(x: Tensor, factor: float, _rng: Generator) -> Tensor:
    """Drawn towards the mean of each channel."""
    mean = x.mean((2, 3), keepdim=True)
    return (x - mean) * factor + mean


def pixelate(x: Tensor, factor: float, _rng: Generator) -> Tensor:
    """Reduced by the factor and enlarged again, both by boxes."""
    height, width = x.shape[-2:]
    return _by_image(x, lambda image: _box(_box(image, (int(width * factor), int(height * factor))), (width, height)))


def _box(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    return image.resize(size, Image.Resampling.BOX)


def jpeg_compression(x: Tensor, quality: int, _rng: Generator) -> Tensor:
    """Through JPEG of that quality."""

    def through(image: Image.Image) -> Image.Image:
        file = io.BytesIO()
        image.save(file, "JPEG", quality=quality)
        return Image.open(file).convert(image.mode)

    return _by_image(x, through)


def _by_image(x: Tensor, change: Callable[[Image.Image], Image.Image]) -> Tensor:
    """What Pillow makes of each image of one or three channels."""
    found = []
    for image in x.clamp(0, 1).mul(255).to(torch.uint8).permute(0, 2, 3, 1).numpy():
        changed = np.asarray(change(Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)))
        found.append(torch.from_numpy(changed.copy()).view(*image.shape).permute(2, 0, 1))
    return torch.stack(found).float() / 255


GENERATED: Mapping[str, tuple[Corruption, tuple[Any, ...]]] = {
    "gaussian_noise": (gaussian_noise, (0.04, 0.06, 0.08, 0.09, 0.10)),
    "shot_noise": (shot_noise, (500, 250, 100, 75, 50)),
    "impulse_noise": (impulse_noise, (0.01, 0.02, 0.03, 0.05, 0.07)),
    "speckle_noise": (speckle_noise, (0.06, 0.10, 0.12, 0.16, 0.20)),
    "gaussian_blur": (gaussian_blur, (0.4, 0.6, 0.7, 0.8, 1.0)),
    "glass_blur": (glass_blur, ((0.05, 1, 1), (0.25, 1, 1), (0.4, 1, 1), (0.25, 1, 2), (0.4, 1, 2))),
    "defocus_blur": (defocus_blur, ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1))),
    "zoom_blur": (zoom_blur, (1.05, 1.10, 1.15, 1.20, 1.25)),
    "fog": (fog, ((0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75))),
    "brightness": (brightness, (0.05, 0.10, 0.15, 0.20, 0.30)),
    "contrast": (contrast, (0.75, 0.50, 0.40, 0.30, 0.15)),
    "saturate": (saturate, ((0.3, 0), (0.1, 0), (1.5, 0), (2, 0.1), (2.5, 0.2))),
    "pixelate": (pixelate, (0.95, 0.90, 0.85, 0.75, 0.65)),
    "jpeg_compression": (jpeg_compression, (80, 65, 58, 50, 40)),
}
"""Name -> corruption and its parameters at severities 1 to 5."""


def corrupt(name: str, severity: int, found: Tensor, rng: Generator) -> Tensor:
    """Pixels [N,C,H,W] in [0,1] on the CPU, corrupted, clipped and cut to 255 steps as the benchmark's files are."""
    function, parameters = GENERATED[name]
    changed = function(found, parameters[severity - 1], rng)
    if changed.shape != found.shape:  # grey images that became colour
        changed = changed[:, : found.shape[1]]
    return (changed.clamp(0, 1) * 255).floor() / 255
