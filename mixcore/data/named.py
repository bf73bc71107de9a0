"""The sets of a task that a network can be scored on, by name."""

from __future__ import annotations

from typing import Any

import attrs
from torch.utils.data import Dataset

from mixcore.errors import ConfigError, DataError
from mixcore.types import Data, Resident

__all__ = ["VALIDATION", "evaluation_sets", "for_evaluation"]

VALIDATION = "val"
"""Name of the validation set; a data plugin's further sets have others."""


def evaluation_sets(data: Data) -> dict[str, Dataset[Any] | Resident]:
    """The validation set as "val", then the plugin's further ones. DataError where one of these is called so too."""
    if VALIDATION in data.evaluation:
        raise DataError(
            f'the data plugin gives an evaluation set called "{VALIDATION}", which is the name of the validation set; '
            "give it another one"
        )
    return {VALIDATION: data.validation, **data.evaluation}


def for_evaluation(data: Data, name: str) -> Data:
    """The same data with set `name` in place of the validation set, for `build_eval_loader`. ConfigError names them."""
    sets = evaluation_sets(data)
    if name not in sets:
        raise ConfigError(f"there is no evaluation set {name!r}; this run's data has: {', '.join(sets)}")
    return attrs.evolve(data, validation=sets[name])
