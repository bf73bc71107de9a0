"""One picture of an analysis of several runs."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from mixcore.analyse.one import PICTURE, Analysis, Result
from mixcore.errors import HookError
from mixcore.pictures.layout import GAP, INK, LINE, PAPER, cut
from mixcore.types import Task

__all__ = ["picture_together", "run_names"]


def run_names(folders: Sequence[Path]) -> list[str]:
    """What the runs are called: the names of their folders, or where two are alike, the paths."""
    short = [folder.resolve().name for folder in folders]
    return short if len(set(short)) == len(short) else [str(folder) for folder in folders]


def picture_together(analysis: Analysis, results: Mapping[str, Result], task: Task, out: Path) -> Path | None:
    """`<name>.png` in the folder `out` of all results by run: by the plugin's `compare_runs`, else side by side.

    None where there is nothing to picture. HookError where the plugin draws none.
    """
    calls = analysis.alone.calls
    target = out / f"{analysis.name}.png"
    pictures = {name: result.picture for name, result in results.items() if result.picture is not None}
    if not calls.has("compare_runs"):
        if not pictures:
            return None
        out.mkdir(parents=True, exist_ok=True)
        _side_by_side(pictures).save(target, format="png")
        return target
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out) as folder:
        numbers = {name: result.numbers for name, result in results.items()}
        calls.compare_runs(results=numbers, task=task, folder=Path(folder))
        drawn = Path(folder, PICTURE)
        if not drawn.is_file():
            raise HookError(f"compare_runs of {calls.label} wrote no {PICTURE} into the folder that it was given")
        os.replace(drawn, target)
    return target


def _side_by_side(pictures: Mapping[str, Path]) -> Image.Image:
    """The pictures of the runs in a row, each below its name."""
    opened = {name: Image.open(path).convert("RGB") for name, path in pictures.items()}
    width = sum(one.width + GAP for one in opened.values()) + GAP
    height = max(one.height for one in opened.values()) + LINE + 2 * GAP
    paper = Image.new("RGB", (width, height), PAPER)
    pen, font, left = ImageDraw.Draw(paper), ImageFont.load_default(13), GAP
    for name, one in opened.items():
        pen.text((left, GAP // 2), cut(pen, name, font, one.width), INK, font)
        paper.paste(one, (left, LINE + GAP))
        left += one.width + GAP
    return paper
