"""Progress of one long loop: a bar on a terminal, silent elsewhere."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

__all__ = ["Bar"]

Item = TypeVar("Item")


class Bar:
    """`for item in Bar("fgsm")(items, total=10)`; `console` is for tests, by default that of stderr."""

    def __init__(self, title: str, console: Console | None = None) -> None:
        self._title, self._console = title, console or Console(stderr=True)

    def __call__(self, items: Iterable[Item], total: int | None = None) -> Iterator[Item]:
        """The items as they come; `total` is how many, where they do not know it themselves."""
        if not self._console.is_terminal:
            yield from items
            return
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=self._console, transient=True) as bar:
            yield from bar.track(items, total=total, description=self._title)
