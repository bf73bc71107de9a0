"""Saliency of the image alone, no network involved: spectral residual and fine-grained, batched on the device.

Both take images [N,C,H,W] of any floating dtype and give [N,H,W] float32 >= 0. They are unchanged by adding a constant
to all pixels (fine-grained, up to rounding) and need no un-normalised pixels.
"""

from __future__ import annotations

import functools
import math
from collections import Counter
from collections.abc import ItemsView

import torch
import torch.nn.functional as F
from torch import Tensor

from mixcore.ops.draws import send

__all__ = ["fine_grained", "grey", "spectral_residual"]

FINE_GRAINED_SCALES = (12, 24, 48, 28, 56, 112)
LARGEST_SPECTRUM = 128


def grey(images: Tensor) -> Tensor:
    """[N,H,W] float32: 0.299 R + 0.587 G + 0.114 B of three channels, one channel as it is, else the channel mean."""
    images = images.detach().float()
    if images.shape[1] == 3:
        red, green, blue = images.unbind(1)
        return 0.299 * red + 0.587 * green + 0.114 * blue
    return images.mean(1)


# --- fine-grained ----------------------------------------------------------------------------------------------------


@torch.no_grad()
def fine_grained(images: Tensor) -> Tensor:
    """[N,H,W]: sum over window sizes n of |g - mean of the others in the window of 2n pixels around the pixel|.

    g is the grey image, twice smoothed by [1/4,1/2,1/4] with reflected edges. Windows run from i-n+1 to i+n and are cut
    at the image border (Montabone and Soto, 2010, as the centre-surround detector of SaliencyMix). Scales with the
    contrast of the image; exactly 0 for a constant image.
    """
    level = grey(images)
    # starting at 0 keeps prefix sums accurate, and constant images exact
    level = level - level[:, :1, :1]
    level = _smooth(_smooth(level))
    centred = level - level.mean((1, 2), keepdim=True)
    height, width = centred.shape[-2:]
    sums = F.pad(centred.cumsum(1).cumsum(2), (1, 0, 1, 0))
    total = torch.zeros_like(centred)
    for scale, times in _scales(max(height, width)):
        window = _window_sums(_window_sums(sums, 1, scale), 2, scale)
        own, all_others = _shares(height, width, scale, centred.device)
        # g - (sum - g) / others, in place
        total.add_(window.mul_(all_others).addcmul_(centred, own).abs_(), alpha=times)
    return total


def _scales(size: int) -> ItemsView[int, int]:
    """Scales with how often each counts: from the image's size on, all windows are the whole image."""
    return Counter(min(scale, size) for scale in FINE_GRAINED_SCALES).items()


def _window_sums(sums: Tensor, axis: int, scale: int) -> Tensor:
    """Prefix sums [.., size+1, ..] -> sums of the windows from i-n+1 to i+n, cut at the border: [.., size, ..]."""
    size = sums.shape[axis] - 1
    inner = max(size - scale, 0)
    windows = sums.narrow(axis, size, 1).repeat_interleave(size, axis)
    if inner:
        windows.narrow(axis, 0, inner).copy_(sums.narrow(axis, scale + 1, inner))
        windows.narrow(axis, scale, inner).sub_(sums.narrow(axis, 1, inner))
    return windows


def _smooth(level: Tensor) -> Tensor:
    """One pass of [1/4,1/2,1/4] in both axes; a reflected edge does not repeat the edge pixel."""
    for axis in (1, 2):
        size = level.shape[axis]
        if size == 1:
            continue
        padded = torch.cat((level.narrow(axis, 1, 1), level, level.narrow(axis, size - 2, 1)), axis)
        sides = padded.narrow(axis, 0, size) + padded.narrow(axis, 2, size)
        level = sides.mul_(0.25).add_(level, alpha=0.5)
    return level


@functools.lru_cache(maxsize=32)
def _shares(height: int, width: int, scale: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Factors [H,W] of the pixel itself and of the sum over its window: (others + 1) / others and -1 / others."""
    rows, columns = (_extent(size, scale) for size in (height, width))
    others = (rows[:, None] * columns - 1).clamp_(min=1).double()
    own, window = ((others + 1) / others).float(), (-1 / others).float()
    return send(own, device), send(window, device)


def _extent(size: int, scale: int) -> Tensor:
    index = torch.arange(size, device="cpu")
    return (index + scale + 1).clamp_(max=size) - (index - scale + 1).clamp_(min=0)


# --- spectral residual -----------------------------------------------------------------------------------------------


@torch.no_grad()
def spectral_residual(images: Tensor) -> Tensor:
    """[N,H,W]: what is unexpected in the spectrum of the grey image (Hou and Zhang, CVPR 2007).

    The residual of the log amplitude against its 3x3 mean is transformed back with the image's phase; its magnitude
    (the paper squares it) is smoothed by a 7x7 Gaussian of sigma 3. Images larger than 128 pixels are brought to
    128x128, and the map back, bilinearly.
    """
    level = grey(images)
    size = level.shape[-2:]
    small = max(size) > LARGEST_SPECTRUM
    if small:
        level = _resize(level, (LARGEST_SPECTRUM, LARGEST_SPECTRUM))
    spectrum = torch.fft.fft2(level)
    amplitude = (spectrum.abs().square() + 1e-10).sqrt()
    log = amplitude.log()
    padded = F.pad(log[:, None], (1, 1, 1, 1), mode="replicate")
    residual = (log - F.avg_pool2d(padded, 3, 1)[:, 0]).exp()
    saliency = _gaussian(torch.fft.ifft2(spectrum * (residual / amplitude)).abs(), 7, 3.0)
    return _resize(saliency, size) if small else saliency


def _resize(level: Tensor, size: tuple[int, int] | torch.Size) -> Tensor:
    return F.interpolate(level[:, None], size=tuple(size), mode="bilinear", align_corners=False)[:, 0]


def _gaussian(level: Tensor, size: int, sigma: float) -> Tensor:
    """Separable Gaussian of `size` taps, edges reflected (repeated where the image is smaller than the taps)."""
    half = size // 2
    taps = [math.exp(-(offset**2) / (2 * sigma**2)) for offset in range(-half, half + 1)]
    for axis in (1, 2):
        length = level.shape[axis]
        pads = (0, 0, half, half) if axis == 1 else (half, half, 0, 0)
        padded = F.pad(level, pads, mode="reflect" if length > half else "replicate")
        level = sum((padded.narrow(axis, i, length) * (tap / sum(taps)) for i, tap in enumerate(taps)), 0 * level)
    return level
