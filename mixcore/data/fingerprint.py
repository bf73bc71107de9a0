"""What a data set is told by, so that a run does not go on with another one unnoticed."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mixcore.types import Data, Resident

__all__ = ["fingerprints"]


def fingerprints(data: Data) -> dict[str, dict[str, Any]]:
    """Of "training" and "validation": `samples`, how many there are, and `hash`, of what can be read cheaply.

    - A Resident: every byte of images, labels and maps, their types and shapes. 184 MB of CIFAR take about a quarter
      second.
    - A Dataset with a method `fingerprint() -> str`: what that says, such as a hash of file names and sizes.
    - Any other Dataset: its length, and its `targets` or `labels` where those are a tensor, an array or a list of
      numbers. Images that were exchanged under the same labels are then not noticed, because reading all of them would
      take as long as an epoch.
    """
    return {"training": _fingerprint(data.train), "validation": _fingerprint(data.validation)}


def _fingerprint(dataset: Any) -> dict[str, Any]:
    total = hashlib.sha256()
    if isinstance(dataset, Resident):
        _add(total, dataset.images)
        _add(total, dataset.labels)
        for name, found in sorted(dataset.maps.items()):
            total.update(f"map {name}\n".encode())
            _add(total, found)
    elif callable(own := getattr(dataset, "fingerprint", None)):
        total.update(str(own()).encode())
    else:
        for name in ("targets", "labels"):
            labels = _numbers(getattr(dataset, name, None), len(dataset))
            if labels is not None:
                _add(total, labels)
    return {"samples": len(dataset), "hash": total.hexdigest()[:32]}


def _numbers(values: Any, count: int) -> Tensor | None:
    """Values as one tensor where they are numbers, one or one row per sample."""
    if not isinstance(values, Tensor | np.ndarray | list | tuple) or len(values) != count:
        return None
    try:
        return torch.as_tensor(values)
    except (TypeError, ValueError, RuntimeError):
        return None


def _add(total: Any, values: Tensor) -> None:
    total.update(f"{values.dtype} {tuple(values.shape)}\n".encode())
    raw = values.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    total.update(raw.numpy().data)
