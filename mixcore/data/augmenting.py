"""The augmentation of a set in memory, written by others: what it gives is checked before it travels on."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from mixcore.data.checks import layout
from mixcore.data.foreign import exits_named, named
from mixcore.errors import DataError
from mixcore.types import Augment

__all__ = ["Augmenting"]

WHERE = "the training set's augmentation"


class Augmenting:
    """Calls an `augment`, None for none. Raises DataError for one that has no `draws`, or cannot move `maps`."""

    def __init__(self, augment: Augment | None, maps: Collection[str]) -> None:
        self.augment, self.draws = augment, 0
        self._move: Callable[[Tensor, Tensor], Tensor] | None = getattr(augment, "on_maps", None)
        self._who = f"{WHERE}, a {named(augment)},"
        if augment is None:
            return
        draws = getattr(augment, "draws", None)
        if not callable(augment) or not isinstance(draws, int) or isinstance(draws, bool) or draws < 0:
            raise DataError(
                f"{self._who} has draws {draws!r}; expected a class with draws: int, how many uniform numbers an image "
                "takes, and __call__(self, images, uniforms)"
            )
        if maps and not callable(self._move):
            raise DataError(
                f"{WHERE} is a {named(augment)}, which cannot move maps ({', '.join(maps)}) with the images; give it a "
                "method on_maps(maps, uniforms), or leave augment out"
            )
        self.draws = draws

    def images(self, images: Tensor, uniforms: Tensor) -> Tensor:
        """uint8 [N,C,h,w] and uniforms [N,draws] -> [N,C,H,W]. Raises DataError for what is no such batch."""
        if self.augment is None:
            return images
        with self._named():
            found = self.augment(images, uniforms)
        rows, channels = images.shape[:2]
        if not _is_batch(found, images.device) or found.shape[:2] != (rows, channels):
            raise DataError(f"{self._who} gave {_told(found)}; expected uint8 [{rows},{channels},H,W] {_place(images)}")
        return found

    def map(self, name: str, found: Tensor, uniforms: Tensor, images: Tensor) -> Tensor:
        """One map uint8 [N,c,h,w], moved as the augmented `images` [N,C,H,W] were -> [N,c,H,W]. Raises DataError."""
        if self._move is None:
            return found
        with self._named():
            moved = self._move(found, uniforms)
        expected = (*found.shape[:2], *images.shape[2:])
        if not _is_batch(moved, images.device) or moved.shape != expected:
            raise DataError(
                f"on_maps of {self._who} gave {_told(moved)} for the map {name!r}; expected uint8 {list(expected)} "
                f"{_place(images)}, the size of the augmented images"
            )
        return moved

    @contextmanager
    def _named(self) -> Iterator[None]:
        """Around a call: an error says whose it is."""
        try:
            with exits_named(self.augment, WHERE):
                yield
        except Exception as error:
            error.add_note(f"in {WHERE}, a {named(self.augment)}")
            raise


def _is_batch(found: object, device: torch.device) -> bool:
    """Whether it may be images or maps of a set in memory: floating ones count as normalised."""
    if not isinstance(found, Tensor) or found.ndim != 4 or found.device != device:
        return False
    return found.dtype == torch.uint8 or found.is_floating_point()


def _told(found: object) -> str:
    return f"{layout(found)} {_place(found)}" if isinstance(found, Tensor) else f"a {type(found).__name__}"


def _place(tensor: Tensor) -> str:
    return f"on {tensor.device}"
