"""Where a run is, and the draws that belong to that moment."""

from __future__ import annotations

import attrs
import torch
from torch import Generator

from mixcore.rng import keyed_generator

__all__ = ["Step"]


@attrs.frozen(eq=False, kw_only=True)
class Step:
    """Where the run is. `epoch` and `iteration` count from 0 over the whole run; the others are totals."""

    epoch: int
    epochs: int
    iteration: int
    iterations: int
    logging: bool = False
    may_overwrite: bool = False
    seed: int = 0
    group: int = 0
    device: torch.device = attrs.field(factory=lambda: torch.device("cpu"))

    @property
    def progress(self) -> float:
        """iteration / iterations."""
        return self.iteration / self.iterations

    def shared_rng(self, name: str) -> Generator:
        """A CPU generator that draws the same on every process, in every group, at every call with this name."""
        return keyed_generator(self.seed, self.epoch, self.iteration, "shared", name)

    def device_rng(self, name: str) -> Generator:
        """A generator on the device, for per-pixel noise: the only draws that depend on the device."""
        device = "cpu" if self.device.type == "meta" else self.device  # there are no generators of its own
        return keyed_generator(self.seed, self.epoch, self.iteration, self.group, "device", name, device=device)
