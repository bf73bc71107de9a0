"""Decoded images on disk, so that the next run need not decode them."""

from __future__ import annotations

import hashlib
import logging
import os
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

__all__ = ["cached"]

logger = logging.getLogger("mixcore")


def cached(
    folder: str, files: Sequence[Path], settings: Sequence[str], decode: Callable[[], tuple[Tensor, Tensor]]
) -> tuple[Tensor, Tensor]:
    """Images and labels from `folder`, or decoded and kept there; with an empty `folder` just decoded.

    An entry holds for these files (path, size, time of change) and settings. A folder that cannot be written is said
    once and does no harm, nor does an entry that is damaged.
    """
    if not folder:
        return decode()
    entry = Path(folder).expanduser() / f"{_digest(files, settings)}.npz"
    try:
        with entry.open("rb") as file, np.load(file) as stored:
            return torch.from_numpy(stored["images"]), torch.from_numpy(stored["labels"])
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        images, labels = decode()
    try:
        _write(entry, images, labels)
    except OSError as error:
        logger.warning("decoded images cannot be kept in %s (%s); the next run decodes them again", folder, error)
    return images, labels


def _write(entry: Path, images: Tensor, labels: Tensor) -> None:
    entry.parent.mkdir(parents=True, exist_ok=True)
    partial = entry.with_suffix(f".{os.getpid()}.partial")
    try:
        with partial.open("wb") as file:
            np.savez(file, images=images.numpy(), labels=labels.numpy())
        partial.replace(entry)
    finally:
        partial.unlink(missing_ok=True)


def _digest(files: Sequence[Path], settings: Sequence[str]) -> str:
    states = [(str(file.absolute()), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    return hashlib.blake2b(repr((states, tuple(settings))).encode(), digest_size=16).hexdigest()
