"""Random fields of low frequency, from normal noise: [n,H,W], of which FMix uses the order of the pixels alone.

Noise has a last axis of two, real and imaginary part. Frequencies are in cycles per pixel.
"""

from __future__ import annotations

import functools
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from mixcore.api import send

__all__ = ["Spectrum", "fields", "noise_shape"]

Spectrum: TypeAlias = Literal["released", "isotropic"]
"""Which frequencies a field has: "isotropic" is the paper's formula, "released" what its published code computes."""


def noise_shape(height: int, width: int, spectrum: Spectrum) -> tuple[int, int, int]:
    """Shape of the normal noise of one field: (rows, columns, 2).

    The released code keeps one bin more than the real transform of an odd width has, and two columns.
    """
    bins = width // 2 + 1
    return (height, bins, 2) if spectrum == "isotropic" else (bins + width % 2, 2, 2)


def fields(noise: Tensor, height: int, width: int, decay_power: float, spectrum: Spectrum) -> Tensor:
    """Low-frequency fields [n,H,W] float32 from normal `noise` [n, *noise_shape] float32 (step 2 of the method).

    Amplitudes fall as 1/f^decay_power. They are relative to the largest, so a field is that of the formula up to a
    positive factor.
    """
    size = (height, width)
    spectra = torch.view_as_complex(noise * _amplitudes(*size, decay_power, spectrum, noise.device))
    if spectrum == "isotropic":
        return torch.fft.irfft2(spectra, s=size)
    # Of two column frequencies: the inverse transform along the columns, then a constant and one wave in each row. No
    # matrix product, which a run may tell to be less precise than float32.
    rows = torch.view_as_real(torch.fft.ifft(spectra, n=height, dim=1) / width)
    constant, real, imaginary = rows[:, :, 0, :1], rows[:, :, 1, :1], rows[:, :, 1, 1:]
    cosine, sine = _waves(width, noise.device)
    return constant.addcmul(real, cosine).addcmul_(imaginary, sine)


@functools.lru_cache(maxsize=32)
def _amplitudes(height: int, width: int, decay_power: float, spectrum: Spectrum, device: torch.device) -> Tensor:
    """What noise is multiplied by, at most 1, in a shape that fits `noise_shape`."""
    lowest = 1 / max(height, width)
    across = torch.arange(width // 2 + 1, dtype=torch.float64, device="cpu") / width
    if spectrum == "isotropic":
        index = torch.arange(height, dtype=torch.float64, device="cpu")
        down = torch.minimum(index, height - index) / height
        frequencies = torch.hypot(down[:, None], across)[..., None]
    else:
        across = torch.cat((across, across[-1:])) if width % 2 else across
        frequencies = torch.stack((across, torch.hypot(across, torch.full_like(across, 1 / height))), 1)[:, None]
    return send((lowest / frequencies.clamp(min=lowest)).pow(decay_power).float(), device)


@functools.lru_cache(maxsize=32)
def _waves(width: int, device: torch.device) -> Tensor:
    """[2,W]: what the real and the imaginary part of column frequency 1 add to a row of an image."""
    # a frequency stands for its conjugate too, unless it is its own; a width of one has no second frequency
    weight = {1: 0.0, 2: 1.0}.get(width, 2.0)
    angle = torch.arange(width, dtype=torch.float64, device="cpu") * (2 * torch.pi / width)
    sine = torch.zeros_like(angle) if width == 2 else -weight * angle.sin()
    return send(torch.stack((weight * angle.cos(), sine)).float(), device)
