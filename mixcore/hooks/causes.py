"""What lies behind an error that a hook met, where the error's own words do not say."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import attrs
from torch import Tensor

__all__ = ["advice", "rows_out_of_range"]


def advice(error: BaseException, plugin: object) -> str | None:
    """What to type in place of an assignment to an instance that takes none; None for any other error.

    attrs refuses `self.x = ...` on the plugin, whose class has slots, and on what the core hands over, which is frozen.
    """
    if not isinstance(error, AttributeError):
        return None
    owner, name = _refused(error, plugin)
    if owner is plugin:
        return (
            f"self.{name}: an instance keeps nothing between calls; what must last is a part from build_modules (its "
            "buffers included), what a later hook of this iteration wants back goes through mix.notes, and an option "
            f"is a field of the class, {name}: float = attrs.field(default=...)"
        )
    if isinstance(error, attrs.exceptions.FrozenInstanceError) and owner is not None:
        kind = type(owner).__name__
        return f"{kind}.{name} cannot be set; make another one: attrs.evolve({kind.lower()}, {name}=...)"
    return None


def _refused(error: AttributeError, plugin: object) -> tuple[Any, str]:
    """The object and the attribute that the error is about."""
    place = error.__traceback__
    while place is not None and place.tb_next is not None:
        place = place.tb_next
    if place is not None and place.tb_frame.f_code.co_name in ("__setattr__", "_frozen_setattrs"):
        told = place.tb_frame.f_locals
        return told.get("self"), str(told.get("name"))
    if error.obj is not None:
        return error.obj, str(error.name)
    # of an assignment that slots refuse, python tells the names in words alone
    words = re.fullmatch(r"'(\w+)' object has no attribute '(\w+)'", str(error))
    if words and words[1] == type(plugin).__name__:
        return plugin, words[2]
    return None, ""


def rows_out_of_range(given: Iterable[tuple[str, Tensor, int]]) -> str | None:
    """The first sources that name rows which are not there, in words; None where all do, or none lie on the CPU.

    `given`: who gave them (hook and plugin), `sources` [M,S], and how many rows there are. Reads values, so it is for
    after an error. On another device nothing is read: the error there ended the device's work.
    """
    for who, sources, rows in given:
        if sources.device.type == "cpu" and sources.numel():
            least, most = (int(bound) for bound in sources.aminmax())
            if least < 0 or most >= rows:
                return (
                    f"{who} gave sources from {least} to {most} of {rows} images: expected rows 0 to {rows - 1}; a "
                    "partner is a row of the images that the hook was given, such as those of draw_partners"
                )
    return None
