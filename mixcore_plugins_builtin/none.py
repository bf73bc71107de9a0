"""The builtin mixer `none`: the batch as it is."""

from __future__ import annotations

import attrs
from torch import Tensor

from mixcore.api import Mix, hookimpl

__all__ = ["NoMix"]


@attrs.define(eq=False, kw_only=True)
class NoMix:
    """No mixing: the baseline that every method is compared with."""

    role = "mix"

    @hookimpl
    def generate_mix(self, images: Tensor) -> Mix:
        """A clean mix [N,C,H,W] of the very images: one source each, weight 1."""
        return Mix.clean(images)
