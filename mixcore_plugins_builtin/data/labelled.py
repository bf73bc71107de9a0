"""Image files and their labels, wherever they were read from."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import attrs
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["LabelledFiles", "irregular_files", "some"]

NAMED = 5
"""Files or classes that a message names."""


@attrs.frozen(eq=False, kw_only=True)
class LabelledFiles:
    """Images of one split: `files` are paths below `folder`.

    Files are kept as one array of bytes: worker processes would copy a list of a million strings, by touching it.
    """

    folder: Path
    files: NDArray[np.bytes_]
    labels: NDArray[np.int64] | NDArray[np.float32]
    """Classes int64 [n] in 0..num_classes-1, or values float32 [n,num_classes]."""
    num_classes: int
    classes: tuple[str, ...] | None = None
    """Names of the classes in the order of the labels, or of the values; None: not known."""

    def __len__(self) -> int:
        return len(self.files)

    def path(self, index: int) -> Path:
        """Path of one image."""
        return self.folder / os.fsdecode(bytes(self.files[index]))

    @property
    def label_kind(self) -> Literal["class", "value"]:
        """What the task calls these labels."""
        return "class" if self.labels.ndim == 1 else "value"

    def label(self, index: int) -> int | Tensor:
        """Of one image the class, from 0, or the values, float32 [num_classes]."""
        label = self.labels[index]
        return int(label) if self.labels.ndim == 1 else torch.from_numpy(label)

    def fingerprint(self) -> str:
        """Hash of each file's label, path below `folder` and size in bytes; 0 for one that is gone."""
        total = hashlib.sha256("\n".join(self.classes or ()).encode("utf-8", "surrogateescape"))
        for index, name in enumerate(self.files):
            label = b"%d" % self.labels[index] if self.labels.ndim == 1 else self.labels[index].tobytes().hex().encode()
            total.update(b"%s %d %s\n" % (label, _size(self.path(index)), bytes(name)))
        return total.hexdigest()


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def irregular_files(folder: Path, files: Sequence[tuple[str, str]], where: str) -> str:
    """What is said of files below `folder` that cannot be read, each with the reason."""
    lines = [f"{(folder / path).absolute()}: {what}" for path, what in files[:NAMED]]
    more = [f"and {len(files) - NAMED} more"] if len(files) > NAMED else []
    return "\n  ".join(
        (
            f"{len(files)} image{'' if len(files) == 1 else 's'} {where} cannot be read; replace or "
            'remove, or set data.on_corrupt = "skip" to go on without:',
            *lines,
            *more,
        )
    )


def some(names: Sequence[object], most: int = NAMED) -> str:
    """The first names in quotes, and how many more there are."""
    quoted = ", ".join(repr(name) for name in names[:most])
    return quoted if len(names) <= most else f"{quoted} and {len(names) - most} more"
