"""Normalised images back to what a person can look at."""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.utils import make_grid

from mixcore.types import Task

__all__ = ["denormalise", "grid"]


def denormalise(images: Tensor, task: Task) -> Tensor:
    """Images [N,C,H,W], normalised with the task's constants, as uint8 [N,3,H,W], clipped to [0,255].

    One channel is shown grey; of other numbers than three, the first three, or the first alone of two.
    """
    mean, std = (torch.tensor(values, device=images.device).view(1, -1, 1, 1) for values in (task.mean, task.std))
    pixels = (images.detach().float() * std + mean).mul(255).round().clamp(0, 255).to(torch.uint8)
    channels = pixels.shape[1]
    return pixels[:, :3] if channels >= 3 else pixels[:, :1].expand(-1, 3, -1, -1)


def grid(images: Tensor, task: Task, *, limit: int = 16, columns: int = 4) -> Tensor:
    """The first `limit` images [N,C,H,W] side by side for TensorBoard, uint8 [3,h,w] on the CPU (reads the device)."""
    return make_grid(denormalise(images[:limit], task).cpu(), nrow=columns, padding=2, pad_value=255)
