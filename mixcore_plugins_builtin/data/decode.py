"""Image files to uint8 tensors, and what is said of those that cannot be read."""

from __future__ import annotations

import errno
import logging
import os
import stat
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from mixcore.api import DataError, MixcoreError, UnreadableSampleError
from mixcore_plugins_builtin.data.options import OnCorrupt
from mixcore_plugins_builtin.data.pixels import DECODER_ERRORS, read_map, read_rgb

__all__ = ["decode_all", "irregular", "open_map", "open_rgb"]

logger = logging.getLogger("mixcore")

NAMED = 5
"""Files that a message names."""
_SYSTEM_IS_FULL = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)
_KINDS = {
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFDIR: "a folder",
}


def open_rgb(source: bytes | Path, name: str, on_corrupt: OnCorrupt) -> Image.Image:
    """The upright image in RGB (pixels.py says how). Raises UnreadableSampleError that names it.

    The error may be skipped if `on_corrupt` says so and the image itself is at fault. An error of ours that arrives
    meanwhile, such as a signal to stop, passes as it is.
    """
    return _open(read_rgb, source, name, on_corrupt)


def open_map(path: Path, on_corrupt: OnCorrupt) -> Image.Image:
    """The upright map, grey or RGB; raises as :func:`open_rgb` does."""
    return _open(read_map, path, str(path), on_corrupt)


def _open(
    decode: Callable[[bytes], Image.Image], source: bytes | Path, name: str, on_corrupt: OnCorrupt
) -> Image.Image:
    data = source if isinstance(source, bytes) else _read(source, name, on_corrupt)
    handled = sys.exception()
    try:
        return decode(data)
    except DECODER_ERRORS as error:
        for cause in _chain(error, handled):
            if isinstance(cause, MixcoreError) or not isinstance(cause, Exception):
                raise cause from None  # Pillow took a signal to stop for a fault of the image
        raise _unreadable(f"{name} cannot be decoded ({' '.join(str(error).split())})", on_corrupt) from error


def _read(path: Path, name: str, on_corrupt: OnCorrupt) -> bytes:
    """The content of a regular file; others are not read, and not waited for."""
    try:
        with open(path, "rb", opener=_at_once) as file:
            wrong = irregular(os.fstat(file.fileno()).st_mode)
            if wrong:
                raise OSError(wrong)
            return file.read()
    except OSError as error:
        reason = f"{name} cannot be read ({error.strerror or error})"
        if error.errno in _SYSTEM_IS_FULL:
            raise UnreadableSampleError(reason) from error
        raise _unreadable(reason, on_corrupt) from error


def _at_once(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def irregular(mode: int) -> str:
    """What a file with this `st_mode` is instead of a regular one; empty for a regular one."""
    if stat.S_ISREG(mode):
        return ""
    return f"it is {_KINDS.get(stat.S_IFMT(mode), 'of an unknown kind')}, no regular file"


def _unreadable(reason: str, on_corrupt: OnCorrupt) -> UnreadableSampleError:
    if on_corrupt == "skip":
        return UnreadableSampleError(reason, skip=True)
    return UnreadableSampleError(f'{reason}; replace or remove it, or set data.on_corrupt = "skip" to go on without it')


def _chain(error: BaseException, handled: BaseException | None) -> Iterator[BaseException]:
    """The error and those that it was raised from, or while handling; without what was `handled` before all that."""
    following: BaseException | None = error
    while following is not None and following is not handled:
        yield following
        following = following.__cause__ or following.__context__


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
            image = open_rgb(source, name, "skip")
        except UnreadableSampleError as error:
            if not error.skip:
                raise
            unreadable.append(str(error))
            continue
        # By its bytes: numpy.asarray may take an error that arrives meanwhile for an image without pixels.
        rows = np.frombuffer(image.tobytes(), np.uint8).reshape(image.height, image.width, 3)
        if pixels and rows.shape != pixels[0].shape:
            raise DataError(
                f"{name} is {rows.shape[1]}x{rows.shape[0]} and the images of {where} before it are "
                f"{pixels[0].shape[1]}x{pixels[0].shape[0]}; images of different sizes need data.name = "
                '"image_folder", which brings them to one size'
            )
        pixels.append(rows)
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
