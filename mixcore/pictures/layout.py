"""Drawing of a contact sheet with Pillow: blocks of rows of cells, all pictures of one size."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import attrs
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

__all__ = ["Block", "Cell", "cut", "draw", "fitted"]

Font: TypeAlias = ImageFont.FreeTypeFont | ImageFont.ImageFont

SMALLEST, LARGEST = 128, 256
"""Pixels of the shown side: smaller pictures are enlarged by a whole factor to about the first, larger ones reduced."""
GAP, MARGIN = 10, 16
TEXT_WIDTH = 190
"""Width of the column of lines, in pixels."""
FRAME = 4
"""Width of the frame of a marked cell, in pixels; it stands in the gap."""
INK, FAINT, PAPER, EDGE, MARK = (25, 25, 25), (105, 105, 105), (255, 255, 255), (205, 205, 205), (215, 95, 0)
LINE = 17
"""Height of a line of text, in pixels."""


@attrs.frozen(eq=False, kw_only=True)
class Cell:
    """A picture (uint8 [3,H,W] on the CPU) with a caption, or lines of text (the first large), or a framed word."""

    picture: Tensor | None = None
    caption: str = ""
    lines: Sequence[str] = ()
    placeholder: str = ""
    marked: bool = False
    """Stands in a thick frame."""


@attrs.frozen(eq=False, kw_only=True)
class Block:
    """A titled table: `columns` are the headings, the last column of each row is text."""

    title: str
    notes: Sequence[str]
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]


def draw(blocks: Sequence[Block], *, heading: str = "") -> Image.Image:
    """All blocks below each other under a heading, on white paper just large enough."""
    picture = next(cell.picture for block in blocks for row in block.rows for cell in row if cell.picture is not None)
    tile = fitted(picture).size
    sheet = _Sheet(tile, widest=max(len(block.columns) for block in blocks))
    height = sum(sheet.height(block) for block in blocks) + 2 * MARGIN + (2 * LINE if heading else 0)
    return sheet.draw(blocks, heading, height)


def fitted(picture: Tensor) -> Image.Image:
    """A picture uint8 [3,H,W] at the size in which it is shown: enlarged pixel for pixel, or reduced."""
    image = Image.fromarray(picture.permute(1, 2, 0).contiguous().numpy())
    longest = max(image.size)
    if longest > LARGEST:
        return image.resize((image.width * LARGEST // longest, image.height * LARGEST // longest), Image.Resampling.BOX)
    factor = -(-SMALLEST // longest)
    return image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)


def cut(pen: ImageDraw.ImageDraw, text: str, font: Font, width: int) -> str:
    """The text, or what of it fits into `width` pixels with an ellipsis behind."""
    if pen.textlength(text, font) <= width:
        return text
    while text and pen.textlength(text + "…", font) > width:
        text = text[:-1]
    return text + "…"


class _Sheet:
    """The paper, and the pen that goes down it."""

    def __init__(self, tile: tuple[int, int], widest: int) -> None:
        self.tile, self.step = tile, tile[0] + GAP
        self.width = 2 * MARGIN + (widest - 1) * self.step + TEXT_WIDTH
        self.row = max(tile[1] + LINE, 7 * LINE) + GAP
        self.small, self.large = ImageFont.load_default(13), ImageFont.load_default(17)

    def height(self, block: Block) -> int:
        """Pixels that a block takes."""
        return LINE * (len(self._notes(block)) + 3) + GAP + self.row * len(block.rows)

    def draw(self, blocks: Sequence[Block], heading: str, height: int) -> Image.Image:
        self.image = Image.new("RGB", (self.width, height), PAPER)
        self.pen = ImageDraw.Draw(self.image)
        top = MARGIN
        if heading:
            self._text(MARGIN, top, heading, FAINT, self.width - 2 * MARGIN)
            top += 2 * LINE
        for block in blocks:
            self._block(block, top)
            top += self.height(block)
        return self.image

    def _notes(self, block: Block) -> list[str]:
        """The block's notes, wrapped at words to the width of the paper."""
        lines: list[str] = []
        for note in block.notes:
            line = ""
            for word in note.split(" "):
                longer = f"{line} {word}" if line else word
                if line and self.small.getlength(longer) > self.width - 2 * MARGIN:
                    lines.append(line)
                    longer = word
                line = longer
            lines.append(line)
        return lines

    def _block(self, block: Block, top: int) -> None:
        self.pen.line((MARGIN, top, self.width - MARGIN, top), EDGE)
        top += GAP
        self._text(MARGIN, top, block.title, INK, self.width - 2 * MARGIN, self.large)
        top += LINE + 6
        for note in self._notes(block):
            self._text(MARGIN, top, note, FAINT, self.width - 2 * MARGIN)
            top += LINE
        top += 4
        for column, title in enumerate(block.columns):
            last = column == len(block.columns) - 1
            self._text(MARGIN + column * self.step, top, title, FAINT, TEXT_WIDTH if last else self.tile[0])
        top += LINE + 2
        for row in block.rows:
            for column, cell in enumerate(row):
                self._cell(cell, MARGIN + column * self.step, top)
            top += self.row

    def _cell(self, cell: Cell, left: int, top: int) -> None:
        width, height = self.tile
        if cell.lines:
            self._text(left, top, cell.lines[0], INK, TEXT_WIDTH, self.large)
            for number, line in enumerate(cell.lines[1:]):
                self._text(left, top + LINE + 8 + number * LINE, line, INK, TEXT_WIDTH)
            return
        if cell.picture is not None:
            self.image.paste(fitted(cell.picture), (left, top))
        if cell.marked:
            frame = (left - FRAME, top - FRAME, left + width + FRAME - 1, top + height + FRAME - 1)
            self.pen.rectangle(frame, outline=MARK, width=FRAME)
        else:
            self.pen.rectangle((left - 1, top - 1, left + width, top + height), outline=EDGE)
        if cell.placeholder:
            middle = (left + width // 2, top + height // 2)
            self.pen.text(middle, cell.placeholder, FAINT, self.small, anchor="mm")
        self._text(left, top + height + 2, cell.caption, FAINT, width)

    def _text(
        self,
        left: int,
        top: int,
        text: str,
        ink: tuple[int, int, int],
        width: int,
        font: Font | None = None,
    ) -> None:
        """Text cut to `width` pixels, with an ellipsis where something is missing."""
        font = font or self.small
        self.pen.text((left, top), cut(self.pen, text, font, width), ink, font)
