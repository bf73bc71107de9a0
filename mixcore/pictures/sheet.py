"""The contact sheet: what mixers make of a batch, one row per mixed image, as a picture with lam and label weights."""

from __future__ import annotations

from collections.abc import Sequence

import attrs
import torch
from PIL import Image
from torch import Tensor

from mixcore.errors import HookError
from mixcore.hooks.causes import rows_out_of_range
from mixcore.pictures.grid import denormalise
from mixcore.pictures.layout import Block, Cell, draw
from mixcore.types import Mix, Targets, Task

__all__ = ["MOST_SOURCES", "Section", "class_text", "contact_sheet", "label_text", "section_block"]

MOST_SOURCES = 4
"""Sources shown per mixed image; of more, those of largest label weight and the image itself."""


@attrs.frozen(eq=False, kw_only=True)
class Section:
    """What one mixer made of one batch: `images` [N,C,H,W] before and `mix` after, `targets` by the label policy."""

    title: str
    notes: Sequence[str] = ()
    """Lines below the title."""
    mix: Mix
    images: Tensor
    targets: Targets


def contact_sheet(
    sections: Sequence[Section],
    task: Task,
    *,
    rows: int = 8,
    heading: str = "",
    more: Sequence[Block] = (),
) -> Image.Image:
    """An RGB picture: per section its title and at most `rows` rows of originals, partners, masks and mixed images.

    Images are de-normalised with the task's constants, and small ones enlarged by a whole factor, pixel for pixel.
    Beside each row stand lam (the weight of the image's own label as the mixer gave it) and the weight of each label
    as the label policy set it, under the names of the task's classes where they are known. `more` is drawn below.
    """
    blocks = [section_block(section, task, rows) for section in sections]
    return draw([*blocks, *more], heading=heading)


def section_block(section: Section, task: Task, rows: int) -> Block:
    """One section as what is drawn: per mixed image its originals, masks, the image itself, and its numbers."""
    return _Rows(section, task, rows).block()


def class_text(index: int, task: Task) -> str:
    """A class by its name where the task knows it, on one line and with what cannot be drawn replaced."""
    if task.class_names is None:
        return f"class {index}"
    words = " ".join(task.class_names[index].split())
    return "".join(letter if letter.isprintable() else "?" for letter in words) or f"class {index}"


def label_text(label: Tensor, task: Task) -> str:
    """One label in words: the class, for soft labels the largest and its share, all of several, or the values."""

    def name(index: int) -> str:
        return class_text(index, task)

    if task.label_kind == "value":
        return ", ".join(f"{value:.4g}" for value in label.flatten().tolist())
    if task.label_kind == "multi_label":
        return ", ".join(name(index) for index in label.nonzero().flatten().tolist()) or "no label"
    if label.is_floating_point():
        share, index = label.max(0)
        return f"{name(int(index))} ({share:.2f})"
    return name(int(label))


class _Rows:
    """The rows of one section, everything on the CPU."""

    def __init__(self, section: Section, task: Task, rows: int) -> None:
        mix, targets = section.mix, section.targets
        misplaced = rows_out_of_range(
            [(f"generate_mix of {section.title}", mix.sources.cpu(), section.images.shape[0])]
        )
        if misplaced is not None:
            raise HookError(misplaced)
        self.section, self.mix, self.task = section, mix, task
        self.weights, self.sources = mix.weights[:rows].cpu(), mix.sources[:rows].cpu()
        self.label_weights, self.label_sources = targets.weights[:rows].cpu(), targets.sources[:rows].cpu()
        self.labels = targets.labels.cpu()
        self.originals = denormalise(section.images, task).cpu()
        self.mixed = denormalise(mix.images[:rows], task).cpu()
        self.masks = None if mix.masks is None else mix.masks_on(*mix.images.shape[-2:])[:rows].float().cpu()
        self.pair = mix.sources.shape[1] == 2
        self.shown = self._shown()
        self.many = self.sources.shape[1] > 2

    def _shown(self) -> Tensor:
        """Which sources are shown, [rows,n]: of a pair both in order, of more the heaviest and the image itself."""
        count = self.sources.shape[1]
        if count <= 2:
            return torch.arange(count).expand(len(self.sources), -1)
        wanted = self.weights > 0
        wanted[:, 0] = True
        present = int(wanted.sum(1).max().clamp(2, MOST_SOURCES))
        shown = self.weights.argsort(dim=1, descending=True, stable=True)[:, :present]
        shown[(shown != 0).all(1), -1] = 0
        return shown

    def block(self) -> Block:
        """What is drawn."""
        rows = [
            [*self._originals(row), *self._masks(row), Cell(picture=self.mixed[row]), Cell(lines=self._numbers(row))]
            for row in range(len(self.sources))
        ]
        return Block(
            title=self.section.title, notes=[*self.section.notes, *self._notes()], columns=self._columns(), rows=rows
        )

    def _columns(self) -> list[str]:
        count = self.shown.shape[1]
        sources = ["image", "partner"][:count] if count < 3 and self.pair else [f"source {i + 1}" for i in range(count)]
        if count == 1:
            return ["image", "fed to the network", "lam and label weights"]
        if self.pair or self.masks is None:
            return [*sources, "mask", "mixed", "lam and label weights"]
        return [*sources, *(f"mask {i + 1}" for i in range(count)), "mixed", "lam and label weights"]

    def _originals(self, row: int) -> list[Cell]:
        return [
            Cell(
                picture=self.originals[n],
                caption=f"#{n} {label_text(self.labels[n], self.task)}",
                marked=self._is_own(source),
            )
            for source in self.shown[row].tolist()
            for n in [int(self.sources[row, source])]
        ]

    def _is_own(self, source: int) -> bool:
        """Whether the source is the image itself and is to be marked: of a pair its column says so."""
        return self.many and source == 0

    def _masks(self, row: int) -> list[Cell]:
        if self.shown.shape[1] == 1:
            return []
        if self.masks is None:
            return [Cell(placeholder="no mask")]
        shown = self.shown[row].tolist()
        return [
            Cell(
                picture=(mask * 255).round().clamp(0, 255).to(torch.uint8).expand(3, -1, -1),
                caption=f"mean {mask.mean():.3f}",
                marked=self._is_own(source),
            )
            for source in (shown[:1] if self.pair else shown)
            for mask in [self.masks[row, source]]
        ]

    def _numbers(self, row: int) -> list[str]:
        """lam, and below it each label with the weight that the loss is told."""
        weights = self.label_weights[row]
        order = torch.arange(len(weights))
        if len(weights) > 2:
            order = weights.argsort(descending=True, stable=True)[: int((weights > 0).sum())]
        lines = [f"lam {self.weights[row, 0]:.3f}"]
        for index in order[:MOST_SOURCES].tolist():
            label = self.labels[self.label_sources[row, index]]
            lines.append(f"{weights[index]:.3f} {label_text(label, self.task)}")
        if len(order) > MOST_SOURCES:
            lines.append(f"and {len(order) - MOST_SOURCES} more")
        if abs(float(weights.sum()) - 1) > 1e-3:
            lines.append(f"sum {weights.sum():.3f}")
        return lines

    def _notes(self) -> list[str]:
        notes: list[str] = []
        if self.shown.shape[1] == 1:
            notes.append("not mixed: every image goes to the network as it is")
        if self.mix.stage is not None:
            notes.append(f"mixed inside the network, at stage {self.mix.stage!r}: the images that enter it are shown")
        if self.mix.views:
            notes.append(f"the network also sees {len(self.mix.views)} further view(s) of the batch")
        if self.masks is not None:
            notes.append(
                "mask: white where the image's own pixels are kept, black where the partner's are taken"
                if self.pair
                else "mask k: the brighter, the more of source k"
            )
        if self.many:
            own = torch.equal(self.sources[:, 0], torch.arange(len(self.sources)))
            notes.append(f"framed: {'the image itself, ' if own else ''}source 0, whose label weight is lam")
        return notes
