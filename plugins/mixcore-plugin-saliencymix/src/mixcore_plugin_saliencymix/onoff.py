"""The saliency detector of the published code, on 8-bit images, for comparison with it.

What OpenCV calls static fine-grained saliency: bright-on-dark and dark-on-bright contrast in windows of six sizes, each
rounded down to integers. It peaks as often on the background as on the object; the method's own default is
`fine_grained`.
"""

from __future__ import annotations

from collections.abc import Sequence

import attrs
import torch
from torch import Tensor
from torch.nn import functional as F

from mixcore.api import OptionValueError, Task, all_positive, hookimpl, send

__all__ = ["OnOff8", "bytes_of", "onoff8"]

SCALES = (12, 24, 48, 28, 56, 112)


def bytes_of(images: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Normalised images [N,C,H,W] -> the 8-bit images they came from, as whole numbers 0..255 in float32.

    OptionValueError where there is not one mean and deviation per channel.
    """
    channels = images.shape[1]
    if len(mean) != channels or len(std) != channels:
        raise OptionValueError(
            f"onoff8: mean and std have {len(mean)} and {len(std)} numbers, found images of {channels} channels; "
            "set both to one number per channel"
        )
    shift, scale = (
        send(torch.tensor(one, dtype=torch.float32, device="cpu")[:, None, None], images.device) for one in (mean, std)
    )
    return ((images.detach().float() * scale + shift) * 255).round_().clamp_(0, 255)


@torch.no_grad()
def onoff8(pixels: Tensor) -> Tensor:
    """[N,H,W] float32 in [0,1], of whole numbers 0..255 in `pixels` [N,C,H,W].

    On_n = floor(max(g - mu_n, 0)) and Off_n = floor(max(mu_n - g, 0)) for the mean mu_n of the others in window n, g
    the grey image smoothed twice. Each is summed over n and scaled to 255; their sum is scaled by 255 over the larger
    of the two largest values, rounded down, and wraps at 256, as the bytes of the original do.
    """
    level = _grey_bytes(pixels)
    for _ in range(2):
        level = _smoothed(level)
    on, off = _contrasts(level)
    on, off = (_scaled(one) for one in (on, off))
    largest = torch.maximum(on.amax((1, 2), keepdim=True), off.amax((1, 2), keepdim=True))
    return ((on + off) * 255 / largest.clamp(min=1)).floor() % 256 / 255


def _grey_bytes(pixels: Tensor) -> Tensor:
    """0.299 R + 0.587 G + 0.114 B in whole numbers of 1/32768, as the original; else the rounded channel mean."""
    if pixels.shape[1] != 3:
        return _rounded(pixels.mean(1))
    red, green, blue = pixels.long().unbind(1)
    return ((9798 * red + 19235 * green + 3735 * blue + 16384) >> 15).float()


def _rounded(level: Tensor) -> Tensor:
    """Halves go up."""
    return (level + 0.5).floor()


def _smoothed(level: Tensor) -> Tensor:
    """[1/4,1/2,1/4] in both axes, edges reflected without repeating the edge pixel, one rounding at the end."""
    for axis in (1, 2):
        size = level.shape[axis]
        if size > 1:
            before = torch.cat((level.narrow(axis, 1, 1), level.narrow(axis, 0, size - 1)), axis)
            after = torch.cat((level.narrow(axis, 1, size - 1), level.narrow(axis, size - 2, 1)), axis)
            level = level / 2 + (before + after) / 4
    return _rounded(level)


def _contrasts(level: Tensor) -> tuple[Tensor, Tensor]:
    """On and Off [N,H,W], summed over the windows. In integers, where no rounding can move a floor."""
    g = level.long()
    height, width = g.shape[-2:]
    sums = F.pad(g.cumsum(1).cumsum(2), (1, 0, 1, 0))
    on, off = torch.zeros_like(g), torch.zeros_like(g)
    for scale in SCALES:
        (top, bottom), (left, right) = _cut(height, scale, g.device), _cut(width, scale, g.device)
        rows = sums.index_select(1, bottom) - sums.index_select(1, top)
        window = rows.index_select(2, right) - rows.index_select(2, left)
        others = ((bottom - top)[:, None] * (right - left) - 1).clamp(min=1)
        difference = g * others - (window - g)
        on += difference.clamp(min=0).div(others, rounding_mode="floor")
        off += (-difference).clamp(min=0).div(others, rounding_mode="floor")
    return on, off


def _cut(size: int, scale: int, device: torch.device) -> tuple[Tensor, Tensor]:
    index = torch.arange(size, device=device)
    return (index - scale + 1).clamp_(min=0), (index + scale + 1).clamp_(max=size)


def _scaled(contrast: Tensor) -> Tensor:
    """Scaled to a largest value of 255, rounded down."""
    largest = contrast.amax((1, 2), keepdim=True).clamp(min=1)
    return (contrast * 255).div(largest, rounding_mode="floor").float()


@attrs.define(eq=False, kw_only=True)
class OnOff8:
    """The saliency detector of the published SaliencyMix code, on 8-bit images, for comparison with it."""

    role = "saliency"
    spec_version = (1, 2)

    mean: tuple[float, ...] | None = None
    """Mean per channel that the images were normalised with; default: the task's."""
    std: tuple[float, ...] | None = attrs.field(default=None, validator=all_positive)
    """Standard deviation per channel that the images were normalised with; default: the task's."""

    @hookimpl
    def map_saliency(self, images: Tensor, task: Task) -> Tensor:
        """[N,H,W] float32 in [0,1]."""
        return onoff8(bytes_of(images, self.mean or task.mean, self.std or task.std))
