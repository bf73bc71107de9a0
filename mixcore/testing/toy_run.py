"""A trained run without a folder, for analyses: images in memory, a mixer of columns, two checkpoints."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import attrs
import torch
from torch import Tensor, nn

from mixcore.errors import ConfigError
from mixcore.testing.fakes import Columns
from mixcore.types import Batch, Mix, Targets

__all__ = ["ToyRun"]

BATCH = 4


@attrs.frozen(eq=False, kw_only=True)
class ToyRun:
    """The `RunData` of a network and a set; what `other` gives is the same images turned upside down."""

    model: nn.Module
    images: Tensor
    """[n,C,H,W], normalised."""
    labels: Tensor
    set_name: str = "val"
    sets: tuple[str, ...] = ("val",)
    mixers: tuple[str, ...] = ("columns",)

    def batches(self, name: str | None = None) -> Iterator[Batch]:
        """Batches of four."""
        assert name in (None, *self.sets)
        return self._in_batches(self.images)

    def other(self, name: str, options: Mapping[str, Any]) -> Iterator[Batch]:  # noqa: ARG002 - there is one other
        """The same images in other clothes."""
        return self._in_batches(-self.images.flip(2))

    def _in_batches(self, images: Tensor) -> Iterator[Batch]:
        for start in range(0, len(images), BATCH):
            rows = slice(start, start + BATCH)
            yield Batch(images=images[rows], labels=self.labels[rows])

    def mix(self, images: Tensor, labels: Tensor, *, draw: int = 0, mixer: str | None = None) -> tuple[Mix, Targets]:
        """Columns of a partner, as many as `draw` decides."""
        if mixer not in (None, *self.mixers):
            raise ConfigError(f"a toy run has no mixer {mixer!r}; it has: {', '.join(self.mixers)}")
        mix = Columns().generate_mix(images=images, rng=torch.Generator().manual_seed(draw))
        return mix, mix.targets(labels)

    def passes(self) -> tuple[float, float]:
        """Of a mixer that looks at nothing."""
        return 1.0, 1.0

    def checkpoints(self) -> Iterator[tuple[int, Mapping[str, Tensor]]]:
        """Two of an earlier training, where the weights were smaller, and the one that is analysed."""
        for epoch, share in ((1, 0.5), (2, 0.8), (3, 1.0)):
            state = self.model.state_dict()
            yield epoch, {name: value * share if value.is_floating_point() else value for name, value in state.items()}
