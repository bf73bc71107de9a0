"""Decoded images on disk, so that the next run need not decode them."""

from __future__ import annotations

import hashlib
import logging
import os
import zipfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import PIL
import torch
from torch import Tensor

from mixcore_plugins_builtin.data.options import data_path

__all__ = ["cached"]

logger = logging.getLogger("mixcore")

LAYOUT = "2"
"""Raised where the same files would be decoded to other pixels than before, or kept otherwise."""


def cached(
    folder: str, files: Sequence[Path], settings: Sequence[str], decode: Callable[[], tuple[Tensor, Tensor]]
) -> tuple[Tensor, Tensor]:
    """Images and labels from `folder`, or decoded and kept there; with an empty `folder` just decoded.

    An entry holds for the content of these files, for the settings and for Pillow's version; it is written whole or
    not at all, and only after `decode` has returned. A folder that cannot be written is said once and does no harm, nor
    does an entry that is damaged.
    """
    if not folder:
        return decode()
    entry = data_path(folder) / f"{_digest(files, settings)}.npz"
    stored = _read(entry)
    if stored is not None:
        return stored
    images, labels = decode()
    try:
        _write(entry, images, labels)
    except (OSError, ValueError) as error:
        logger.warning("decoded images cannot be kept in %s (%s); the next run decodes them again", folder, error)
    return images, labels


def _read(entry: Path) -> tuple[Tensor, Tensor] | None:
    """What the entry holds; None where there is none or it is damaged (the archive keeps checksums)."""
    try:
        with entry.open("rb") as file, np.load(file) as stored:
            images, labels = stored["images"], stored["labels"]
    except (
        OSError,
        ValueError,
        LookupError,
        EOFError,
        SyntaxError,
        zipfile.BadZipFile,
        zlib.error,
        NotImplementedError,
    ):
        return None
    if images.dtype != np.uint8 or images.ndim != 4 or labels.dtype != np.int64 or labels.shape != images.shape[:1]:
        return None
    return torch.from_numpy(images), torch.from_numpy(labels)


def _write(entry: Path, images: Tensor, labels: Tensor) -> None:
    entry.parent.mkdir(parents=True, exist_ok=True)
    partial = entry.with_suffix(f".{os.getpid()}.partial")
    try:
        with partial.open("xb") as file:
            np.savez(file, images=images.numpy(), labels=labels.numpy())
            file.flush()
            os.fsync(file.fileno())
        partial.replace(entry)
    finally:
        partial.unlink(missing_ok=True)


def _digest(files: Sequence[Path], settings: Sequence[str]) -> str:
    digest = hashlib.sha256(repr((LAYOUT, PIL.__version__, tuple(settings))).encode())
    for path in files:
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:32]
