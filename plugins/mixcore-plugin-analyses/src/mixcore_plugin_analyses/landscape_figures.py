"""Pictures of loss landscapes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from mixcore_plugin_analyses.figures import panels, save

__all__ = ["draw_lines", "draw_plane"]

LEVELS = np.arange(0.1, 10.0, 0.5)
HIGHEST = 5.0
"""Loss at the top of a line's panel."""


def _finite(values: Any) -> Any:
    """Numbers with NaN where words stand."""
    if isinstance(values, list):
        return [_finite(value) for value in values]
    return values if isinstance(values, int | float) else float("nan")


def draw_lines(results: Mapping[str, Mapping[str, Any]], folder: Path) -> None:
    """Loss on the left axis, accuracy on the right; several runs by line style."""
    figure, [[left]] = panels(1, 1, width=6)
    right = left.twinx()
    for style, (name, found) in zip(("-", "--", ":", "-.") * len(results), results.items(), strict=False):
        if "line" not in found:
            continue
        line = found["line"]
        width = found["flat_width"]
        left.plot(line["alpha"], _finite(line["loss"]), f"b{style}", label=f"{name} flat width {width:.2f}".strip())
        right.plot(line["alpha"], line["accuracy"], f"r{style}")
    left.set(xlabel="alpha", ylim=(0, HIGHEST))
    left.set_ylabel("loss", color="b")
    left.legend(fontsize="small", loc="upper left")
    right.set_ylim(0, 100)
    right.set_ylabel("accuracy, percent", color="r")
    save(figure, folder)


def draw_plane(results: Mapping[str, Mapping[str, Any]], folder: Path) -> None:
    """Per run contours, filled contours, heat map and surface; the path of the training where there is one."""
    kinds = 4
    figure = Figure(figsize=(4.2 * kinds, 3.8 * len(results)), layout="constrained")
    for row, (name, found) in enumerate(results.items()):
        plane = found["plane"]
        x, y, loss = (np.asarray(_finite(plane[key]), dtype=float) for key in ("x", "y", "loss"))
        axes = [
            figure.add_subplot(len(results), kinds, row * kinds + column + 1, projection="3d" if column == 3 else None)
            for column in range(kinds)
        ]
        lines = axes[0].contour(x, y, loss, levels=LEVELS)
        axes[0].clabel(lines, fontsize=7)
        axes[0].set_title(name)
        figure.colorbar(axes[1].contourf(x, y, loss, levels=LEVELS, extend="both"), ax=axes[1])
        heat = axes[2].imshow(
            loss, origin="lower", extent=(x[0], x[-1], y[0], y[-1]), aspect="auto", vmin=0, vmax=LEVELS[-1]
        )
        figure.colorbar(heat, ax=axes[2], label="loss")
        surface: Any = axes[3]
        surface.plot_surface(*np.meshgrid(x, y), np.clip(loss, 0, LEVELS[-1]), cmap="viridis")
        if "path" in found:
            path = found["path"]
            axes[0].plot(path["x"], path["y"], "r.-")
            shares = ", ".join(f"{100 * share:.0f} %" for share in found["explained_variance"])
            axes[0].set_xlabel(f"variance explained: {shares}")
    save(figure, folder)
