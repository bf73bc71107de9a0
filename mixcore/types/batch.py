"""What travels from the loader to the hooks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import attrs
from torch import Tensor

__all__ = ["Batch"]


@attrs.frozen(eq=False, kw_only=True)
class Batch:
    """What travels from the loader to the hooks: `images` [N,C,H,W], `labels`, and what belongs to the same rows.

    Hooks name `images`, `labels`, or the whole `batch`. It unpacks as loops know it: `images, labels = batch`.
    """

    images: Tensor
    labels: Tensor
    index: Tensor | None = None
    """[N] int64 row of each sample in the training set; None in a foreign loop that does not tell."""
    maps: Mapping[str, Tensor] = attrs.field(factory=dict)
    """[N,c,H,W] by name, augmented together with the images."""
    augmented: tuple[Tensor, ...] = ()
    """Further augmentations of the same rows, [N,C,H,W] each: as many as a plugin of the run declares."""

    def __iter__(self) -> Iterator[Tensor]:
        """Images, then labels."""
        yield self.images
        yield self.labels

    def rows(self, rows: slice) -> Batch:
        """Some of the rows, as views."""
        return Batch(
            images=self.images[rows],
            labels=self.labels[rows],
            index=None if self.index is None else self.index[rows],
            maps={name: found[rows] for name, found in self.maps.items()},
            augmented=tuple(found[rows] for found in self.augmented),
        )
