"""Batches on their way from the host to the network."""

from __future__ import annotations

import torch
from torch import Tensor

from mixcore.ops.draws import send
from mixcore.types import Task

__all__ = ["InputImages", "as_shares"]


def as_shares(maps: Tensor) -> Tensor:
    """What hooks are given of a map: float32, uint8 values divided by 255."""
    return maps.to(torch.float32).div_(255) if maps.dtype == torch.uint8 else maps.to(torch.float32)


class InputImages:
    """What the network is fed: float32, normalised, in the run's memory format.

    uint8 images u become (u/255 - mean) / std per channel; floating ones are normalised already.
    """

    def __init__(self, task: Task, device: torch.device, *, channels_last: bool) -> None:
        mean, std = (torch.tensor(values, dtype=torch.float64)[:, None, None] for values in (task.mean, task.std))
        self.factor = send((1 / (255 * std)).float(), device)
        self.offset = send((-mean / std).float(), device)
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format

    def __call__(self, images: Tensor) -> Tensor:
        """uint8 or floating [N,C,H,W] on the device -> float32 [N,C,H,W], a new tensor for uint8 images."""
        if images.dtype == torch.uint8:
            images = images.to(torch.float32).mul_(self.factor).add_(self.offset)
        return images.to(torch.float32).contiguous(memory_format=self.memory_format)
