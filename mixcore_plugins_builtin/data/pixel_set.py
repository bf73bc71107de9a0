"""Sets that lie in memory and are nevertheless read image by image, for transforms that work on one image."""

from __future__ import annotations

import hashlib
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from mixcore_plugins_builtin.data.folder_transforms import Transform

__all__ = ["PixelSet"]


class PixelSet(Dataset[Any]):
    """Images uint8 [n,3,H,W] and labels int64 [n]; `transform` makes uint8 or normalised float32 [3,h,w] of each."""

    def __init__(self, images: Tensor, labels: Tensor, transform: Transform) -> None:
        self.images, self.labels, self.transform = images, labels, transform

    def __len__(self) -> int:
        return self.images.shape[0]

    def fingerprint(self) -> str:
        """Hash of every pixel and label."""
        total = hashlib.sha256(str(tuple(self.images.shape)).encode())
        for tensor in (self.images, self.labels):
            total.update(tensor.contiguous().view(torch.uint8).numpy().data)
        return total.hexdigest()

    def __getitem__(self, index: int) -> Any:
        """Image and label."""
        pixels = self.images[index].permute(1, 2, 0).contiguous().numpy()
        return self.transform(Image.fromarray(pixels)), int(self.labels[index])
