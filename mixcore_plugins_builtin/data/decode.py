"""Image files to uint8 tensors."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from mixcore.api import DataError, UnreadableSampleError
from mixcore_plugins_builtin.data.options import OnCorrupt

__all__ = ["decode_all", "open_rgb"]

logger = logging.getLogger("mixcore")

COMMON_FORMATS = ("JPEG", "PNG", "WEBP")
"""Tried first: asking Pillow to try every format it knows makes a small image take 2.4 times as long."""
NAMED = 5
"""Files that a message names."""


def open_rgb(source: bytes | Path, name: str, on_corrupt: OnCorrupt) -> Image.Image:
    """The decoded image in RGB. Raises UnreadableSampleError that names it, to be skipped if `on_corrupt` says so."""
    try:
        data = source if isinstance(source, bytes) else source.read_bytes()
        try:
            image = Image.open(io.BytesIO(data), formats=COMMON_FORMATS)
        except UnidentifiedImageError:
            image = Image.open(io.BytesIO(data))
        return image.convert("RGB")
    except Exception as error:  # decoders raise OSError, SyntaxError, ValueError, struct.error and others
        reason = f"{name} cannot be decoded ({' '.join(str(error).split())})"
        if on_corrupt == "skip":
            raise UnreadableSampleError(reason, skip=True) from error
        raise UnreadableSampleError(
            f'{reason}; replace or remove it, or set data.on_corrupt = "skip" to go on without it'
        ) from error


def decode_all(sources: Iterable[tuple[str, bytes | Path]], where: str, on_corrupt: OnCorrupt) -> tuple[Tensor, Tensor]:
    """Decode (name, file) pairs to uint8 [n,3,H,W] and the int64 [n] positions that could be read.

    Unreadable ones are counted and named: in the DataError, or, where `on_corrupt` is "skip", in one warning. Raises
    DataError too where the images differ in size, because a resident set is one tensor.
    """
    pixels: list[np.ndarray] = []
    kept: list[int] = []
    unreadable: list[str] = []
    for position, (name, source) in enumerate(sources):
        try:
            image = np.asarray(open_rgb(source, name, "skip"))
        except UnreadableSampleError as error:
            unreadable.append(str(error))
            continue
        if pixels and image.shape != pixels[0].shape:
            raise DataError(
                f"{name} is {image.shape[1]}x{image.shape[0]} and the images of {where} before it are "
                f"{pixels[0].shape[1]}x{pixels[0].shape[0]}; images of different sizes need data.name = "
                '"image_folder", which brings them to one size'
            )
        pixels.append(image)
        kept.append(position)
    if unreadable:
        _tell(unreadable, where, on_corrupt)
    if not pixels:
        raise DataError(f"{where} has no readable image")
    return torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).contiguous(), torch.tensor(kept)


def _tell(unreadable: list[str], where: str, on_corrupt: OnCorrupt) -> None:
    names = "\n  ".join((*unreadable[:NAMED], *([f"and {len(unreadable) - NAMED} more"] * (len(unreadable) > NAMED))))
    count = f"{len(unreadable)} unreadable image{'' if len(unreadable) == 1 else 's'} in {where}"
    if on_corrupt == "refuse":
        raise DataError(
            f'{count}; replace or remove them, or set data.on_corrupt = "skip" to go on without them:\n  {names}'
        )
    logger.warning("%s left out:\n  %s", count, names)
