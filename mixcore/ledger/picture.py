"""The picture of a report: what was claimed and what was found, a line each."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, cast

from mixcore.ledger.claims import Claim
from mixcore.ledger.status import Standing, Status
from mixcore.pictures.figure import INSTALL, figure_png

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["draw", "picture_advice"]

_COLORS: dict[Status, str] = {
    "verified": "#1b7f4b",
    "higher": "#2166ac",
    "lower": "#b2182b",
    "partial": "#8a8a8a",
}
_SETTINGS: Any = {"font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "axes.spines.left": False}


def picture_advice() -> str:
    """What to type for a picture; empty where matplotlib is installed."""
    return "" if find_spec("matplotlib") else f"for a picture: {INSTALL}"


def draw(tried: Sequence[tuple[Claim, Standing]]) -> bytes:
    """A PNG with a line per claim: a diamond at what was claimed, with its tolerance, a dot at the mean of the runs."""

    def fill(figure: Figure) -> None:
        axes = figure.add_subplot()
        for place, (claim, standing) in enumerate(tried):
            _line(axes, place, claim, standing)
        _label(axes, tried)

    return figure_png(fill, size=(10, 1.4 + 0.32 * len(tried)), dpi=150, settings=_SETTINGS)


def _line(axes: Axes, place: int, claim: Claim, standing: Standing) -> None:
    color, mean = _COLORS[standing.status], cast("float", standing.mean)  # it was tried
    if standing.tolerance is not None:
        around: Any = [claim.value - standing.tolerance, claim.value + standing.tolerance]
        axes.plot(around, [place, place], color="#dddddd", linewidth=7, solid_capstyle="butt", zorder=1)
    axes.errorbar(mean, place, xerr=standing.deviation, fmt="o", color=color, capsize=2.5, markersize=5, zorder=3)
    axes.plot(claim.value, place, marker="D", color="black", markerfacecolor="white", markersize=5, zorder=2)


def _label(axes: Axes, tried: Sequence[tuple[Claim, Standing]]) -> None:
    from matplotlib.lines import Line2D

    axes.set_yticks(range(len(tried)), [claim.id for claim, _ in tried])
    axes.set_ylim(len(tried) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", color="#eeeeee")
    axes.set_axisbelow(True)
    axes.set_xlabel("top-1 accuracy, %; the bar is the claim's tolerance, the whiskers the deviation over the seeds")
    shown = [status for status in _COLORS if any(standing.status == status for _, standing in tried)]
    handles = [Line2D([], [], marker="D", color="black", markerfacecolor="white", linestyle="", label="claimed")]
    handles += [Line2D([], [], marker="o", color=_COLORS[status], linestyle="", label=status) for status in shown]
    axes.figure.legend(handles=handles, loc="outside upper center", ncols=len(handles), frameon=False)
    for place, (_, standing) in enumerate(tried):
        axes.annotate(
            f"{standing.difference:+.2f}  n={len(standing.seeds)}",
            (1.01, place),
            xycoords=("axes fraction", "data"),
            va="center",
            annotation_clip=False,
        )
