"""Tables of the command line."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence

import click

__all__ = ["print_table"]


def print_table(header: Sequence[str], rows: Iterable[Sequence[str]], title: str | None = None) -> None:
    """A table drawn by rich on a terminal; elsewhere plain columns, whole lines, the last column unpadded.

    The title stands above it; cells are shown as they are, markup too.
    """
    rows = list(rows)
    if sys.stdout.isatty():
        from rich.console import Console
        from rich.markup import escape
        from rich.table import Table

        table = Table(*header, title=None if title is None else escape(title), title_justify="left")
        for row in rows:
            table.add_row(*map(escape, row))
        Console().print(table)
        return
    if title is not None:
        click.echo(title)
    widths = [max(len(row[column]) for row in (header, *rows)) for column in range(len(header) - 1)]
    for row in (header, *rows):
        padded = [cell.ljust(width) for cell, width in zip(row, widths, strict=False)]
        click.echo("  ".join((*padded, row[-1])).rstrip())
