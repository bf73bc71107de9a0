"""Saliency of the image alone, no network involved: spectral residual and fine-grained, batched on the device.

Both take images [N,C,H,W] of any floating dtype and give [N,H,W] float32 >= 0. They are unchanged by adding a constant
to all pixels (fine-grained, up to rounding) and need no un-normalised pixels.
"""

from __future__ import annotations

import functools

import torch
import torch.nn.functional as F
from torch import Tensor

from mixcore.ops.draws import send
from mixcore.ops.maps import gaussian_blur, resize_maps

__all__ = ["fine_grained", "grey", "spectral_residual"]

FINE_GRAINED_SCALES = (12, 24, 48, 28, 56, 112)
BLOCK = 1 << 18
"""Pixels that are worked on together on a CPU, where they stay in its cache: 32 maps of 224x224 take 19 ms in such
blocks and 32 at once (one thread of a loaded AMD EPYC, torch 2.15); 100 of 32x32 are one block."""
SMOOTHED = 256
"""Times its mean, that a pixel has after smoothing: divided by at last, which loses nothing."""
LARGEST_SPECTRUM = 128


def grey(images: Tensor) -> Tensor:
    """[N,H,W] float32: 0.299 R + 0.587 G + 0.114 B of three channels, one channel as it is, else the channel mean."""
    images = images.detach().float()
    if images.shape[1] == 3:
        red, green, blue = images.unbind(1)
        return (0.299 * red).add_(0.587 * green).add_(0.114 * blue)
    return images.mean(1)


# --- fine-grained ----------------------------------------------------------------------------------------------------


@torch.no_grad()
def fine_grained(images: Tensor) -> Tensor:
    """[N,H,W]: sum over window sizes n of |g - mean of the others in the window of 2n pixels around the pixel|.

    g is the grey image, twice smoothed by [1/4,1/2,1/4] with reflected edges. Windows run from i-n+1 to i+n and are cut
    at the image border (Montabone and Soto, 2010, as the centre-surround detector of SaliencyMix). Scales with the
    contrast of the image; exactly 0 for a constant image.
    """
    rows = max(1, BLOCK // images[0, 0].numel())
    if images.device.type != "cpu" or rows >= len(images):
        return _fine_grained(images)
    return torch.cat([_fine_grained(block) for block in images.split(rows)])


def _fine_grained(images: Tensor) -> Tensor:
    level = grey(images)
    # starting at 0 keeps prefix sums accurate, and constant images exact
    level = _smooth_twice(level - level[:, :1, :1])
    centred = level - level.mean((1, 2), keepdim=True)
    height, width = centred.shape[-2:]
    whole, cut = _scales(height, width)
    # a window that is the whole image has the sum 0
    total = centred.abs().mul_(whole)
    sums = F.pad(centred.cumsum(1).cumsum(2), (1, 0, 1, 0)) if cut else centred
    for scale in cut:
        area, share = _areas(height, width, scale, centred.device)
        window = _window_sums(_window_sums(sums, 1, scale), 2, scale)
        # g - (sum - g) / others = (g · area - sum) / others
        total.addcmul_(window.addcmul_(centred, area, value=-1).abs_(), share)
    return total


@functools.lru_cache(maxsize=32)
def _scales(height: int, width: int) -> tuple[float, tuple[int, ...]]:
    """The factor of |g| that all windows together have that are the whole image, and the scales of the others."""
    cut = tuple(scale for scale in FINE_GRAINED_SCALES if scale < max(height, width))
    area, whole = height * width, len(FINE_GRAINED_SCALES) - len(cut)
    return whole * area / max(area - 1, 1) / SMOOTHED, cut


def _window_sums(sums: Tensor, axis: int, scale: int) -> Tensor:
    """Prefix sums [.., size+1, ..] -> sums of the windows from i-n+1 to i+n, cut at the border: [.., size, ..]."""
    size = sums.shape[axis] - 1
    inner = max(size - scale, 0)
    last = sums.narrow(axis, size, 1)
    rest = [*last.shape]
    rest[axis] = size - inner
    windows = torch.cat((sums.narrow(axis, size + 1 - inner, inner), last.expand(rest)), axis)
    if inner:
        windows.narrow(axis, scale, inner).sub_(sums.narrow(axis, 1, inner))
    return windows


def _smooth_twice(level: Tensor) -> Tensor:
    """Two passes of [1,2,1] in both axes, 256 times the mean; a reflected edge does not repeat the edge pixel.

    That is [1,4,6,4,1], four sums of neighbours. All lines lie one after the other, so that a sum is one operation on
    two stretches of memory; what runs across the ends of lines is left out at last.
    """
    height, width = level.shape[-2:]
    if min(height, width) > 2:
        level = F.pad(level, (2, 2, 2, 2), mode="reflect")
    else:
        for pads, size in (((2, 2, 0, 0), width), ((0, 0, 2, 2), height)):
            # of one line all neighbours are itself, of two each is the other's
            level = F.pad(level, pads, mode={1: "replicate", 2: "circular"}.get(size, "reflect"))
    lines, spare = level.flatten(), torch.empty_like(level).flatten()
    for step in (1, width + 4):
        for _ in range(4):
            size = len(lines) - step
            lines, spare = torch.add(lines[:size], lines[step:], out=spare[:size]), lines
    return lines.as_strided((len(level), height, width), level.stride())


@functools.lru_cache(maxsize=32)
def _areas(height: int, width: int, scale: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """[H,W]: how many pixels the window has around each, and the factor of its term: one over how many others."""
    rows, columns = (_extent(size, scale) for size in (height, width))
    area = rows[:, None] * columns
    return send(area.float(), device), send((1 / SMOOTHED / (area - 1).clamp(min=1).double()).float(), device)


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
    if max(size) > LARGEST_SPECTRUM:
        level = resize_maps(level, LARGEST_SPECTRUM, LARGEST_SPECTRUM)
    spectrum = torch.fft.fft2(level)
    amplitude = (spectrum.abs().square() + 1e-10).sqrt()
    log = amplitude.log()
    padded = F.pad(log[:, None], (1, 1, 1, 1), mode="replicate")
    residual = (log - F.avg_pool2d(padded, 3, 1)[:, 0]).exp()
    saliency = gaussian_blur(torch.fft.ifft2(spectrum * (residual / amplitude)).abs(), 7, 3.0)
    return resize_maps(saliency, *size)
