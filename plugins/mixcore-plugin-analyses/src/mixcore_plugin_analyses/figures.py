"""Pictures by matplotlib, without its global state: figures are made, drawn into and written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

__all__ = ["blended", "curves", "panels", "save", "show"]

DPI = 110


def panels(rows: int, columns: int, *, width: float = 5.0, height: float = 4.0) -> tuple[Figure, list[list[Axes]]]:
    """A figure of `rows` x `columns` panels, each `width` x `height` inches."""
    figure = Figure(figsize=(width * columns, height * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    return figure, [list(row) for row in axes]


def save(figure: Figure, folder: Path) -> None:
    """Write the picture of an analysis into its folder."""
    figure.savefig(folder / "picture.png", dpi=DPI)


def curves(axes: Axes, lines: Mapping[str, tuple[Sequence[float], Sequence[float]]], x: str, y: str) -> None:
    """Named curves (positions, values) with markers; a legend where there are several."""
    for name, (positions, values) in lines.items():
        axes.plot(positions, values, marker="o", markersize=4, label=name)
    axes.set(xlabel=x, ylabel=y)
    axes.grid(alpha=0.3)
    if len(lines) > 1:
        axes.legend(fontsize="small")


def show(axes: Axes, picture: Any, title: str = "") -> None:
    """A picture without ticks: pixels [C,H,W] in [0,1], or anything that matplotlib shows."""
    if isinstance(picture, Tensor):
        found = picture.detach().float().cpu()
        picture = (found if found.shape[0] >= 3 else found[:1].expand(3, -1, -1))[:3].permute(1, 2, 0).numpy()
    axes.imshow(picture, interpolation="nearest")
    axes.set_xticks([])
    axes.set_yticks([])
    if title:
        axes.set_title(title, fontsize="small")


def blended(picture: Tensor, heat: Tensor) -> Any:
    """Pixels [C,H,W] in [0,1] with a map [H,W] in [0,1] over them in jet colours, half and half."""
    colours = colormaps["jet"](heat.detach().float().cpu().numpy())[..., :3]
    found = picture.detach().float().cpu()
    grey = found if found.shape[0] >= 3 else found[:1].expand(3, -1, -1)
    return np.clip(0.5 * colours + 0.5 * grey[:3].permute(1, 2, 0).numpy(), 0, 1)
