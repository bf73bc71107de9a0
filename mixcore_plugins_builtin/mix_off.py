"""The builtin extra `mix_off`: no mixing in the last epochs."""

from __future__ import annotations

from collections.abc import Generator

import attrs

from mixcore.api import Step, hookimpl

__all__ = ["MixOff"]


@attrs.define(eq=False, kw_only=True)
class MixOff:
    """Ends mixing: from epoch `epoch` on every batch stays clean."""

    epoch: int = attrs.field(validator=attrs.validators.ge(0))
    """First epoch without mixing, counted from 0; with `epochs = 300`, 285 leaves the last 15 epochs clean."""

    @hookimpl(wrapper=True)
    def choose_mixer(self, step: Step) -> Generator[None, int | None, int | None]:
        """Whatever was chosen, None (a clean batch) from epoch `epoch` on."""
        chosen = yield
        return None if step.epoch >= self.epoch else chosen
