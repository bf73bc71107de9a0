"""Figures of matplotlib, which the extra `plots` brings, as PNG."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["INSTALL", "figure_png"]

INSTALL = 'pip install "mixcore[plots]"'
"""What to type where matplotlib is missing."""


def figure_png(draw: Callable[[Figure], None], *, size: tuple[float, float], dpi: int, settings: Any) -> bytes:
    """The figure of `size` in inches that `draw` fills, under the rcParams `settings`; nothing global is changed."""
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    content = io.BytesIO()
    with mpl.rc_context(settings):
        figure = Figure(figsize=size, dpi=dpi, layout="constrained")
        FigureCanvasAgg(figure)
        draw(figure)
        figure.savefig(content, format="png")
    return content.getvalue()
