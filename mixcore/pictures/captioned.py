"""Mixed images side by side, under each the names of its classes with their label weights."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from mixcore.pictures.grid import denormalise
from mixcore.pictures.layout import GAP, INK, LINE, PAPER, cut, fitted
from mixcore.pictures.sheet import MOST_SOURCES, label_text
from mixcore.types import Targets, Task

__all__ = ["caption", "captioned_grid"]


def captioned_grid(images: Tensor, targets: Targets, task: Task, *, limit: int = 16, columns: int = 4) -> Tensor:
    """The first `limit` mixed images [M,C,H,W] with their `targets`, uint8 [3,h,w] on the CPU (reads the device).

    Images are shown as on a contact sheet, long names cut at the width of the image.
    """
    lines = min(targets.sources.shape[1], MOST_SOURCES)
    pictures = [fitted(picture) for picture in denormalise(images[:limit], task).cpu()]
    width, height = pictures[0].width + GAP, pictures[0].height + lines * LINE + GAP
    rows = -(-len(pictures) // columns)
    paper = Image.new("RGB", (min(columns, len(pictures)) * width + GAP, rows * height + GAP), PAPER)
    pen, font = ImageDraw.Draw(paper), ImageFont.load_default(13)
    for index, picture in enumerate(pictures):
        left, top = GAP + index % columns * width, GAP + index // columns * height
        paper.paste(picture, (left, top))
        for number, line in enumerate(caption(targets, index, task)):
            at = (left, top + picture.height + number * LINE)
            pen.text(at, cut(pen, line, font, picture.width), INK, font)
    return torch.from_numpy(np.array(paper)).permute(2, 0, 1)


def caption(targets: Targets, row: int, task: Task) -> list[str]:
    """Of one mixed image the label weights and labels, largest first, at most four: `["0.63 apple", "0.37 bee"]`."""
    weights = targets.weights[row].cpu()
    order = weights.argsort(descending=True, stable=True)
    heavy = [index for index in order.tolist() if weights[index] > 0][:MOST_SOURCES]
    rows = targets.sources[row].tolist()
    return [f"{weights[index]:.2f} {label_text(targets.labels[rows[index]], task)}" for index in heavy]
