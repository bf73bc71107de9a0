"""A figure and the numbers in it, as files: a PNG, and the same rows as CSV beside it."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs

from mixcore.errors import ConfigError
from mixcore.files import replace_file
from mixcore.pictures.figure import INSTALL, figure_png

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Table", "write_plot"]

SIZE = (12, 7)
"""Inches."""
SETTINGS: Any = {"font.size": 11, "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True,
                 "grid.color": "#eeeeee", "axes.axisbelow": True}  # fmt: skip


@attrs.frozen(eq=False)
class Table:
    """What a plot shows: rows of named columns, the first of which says what a row belongs to."""

    columns: tuple[str, ...]
    rows: Sequence[tuple[Any, ...]]

    def groups(self) -> Iterator[tuple[str, list[Mapping[str, Any]]]]:
        """The rows of each value of the first column, in the order in which they came."""
        found: dict[str, list[Mapping[str, Any]]] = {}
        for row in self.rows:
            found.setdefault(row[0], []).append(dict(zip(self.columns, row, strict=True)))
        yield from found.items()


def write_plot(table: Table, draw: Callable[[Figure, Table], None], path: Path) -> list[Path]:
    """Draw `table` into the PNG `path` and write it beside as CSV; gives both files.

    ConfigError with the line to type where matplotlib is not installed, StorageError where the disk refuses.
    """
    if find_spec("matplotlib") is None:
        raise ConfigError(f"plots need matplotlib; type: {INSTALL}")
    picture = figure_png(lambda figure: draw(figure, table), size=SIZE, dpi=120, settings=SETTINGS)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows([table.columns, *table.rows])
    numbers = path.with_suffix(".csv")
    replace_file(path, lambda file: file.write(picture))
    replace_file(numbers, lambda file: file.write(text.getvalue().encode()))
    return [path, numbers]
