"""Which maps a training set gives, known before the first iteration."""

from __future__ import annotations

from mixcore.types import Data, Resident

__all__ = ["given_maps"]


def given_maps(data: Data) -> tuple[str, ...]:
    """Names of the maps that training batches of `data` can have."""
    return tuple(data.train.maps) if isinstance(data.train, Resident) else ()
