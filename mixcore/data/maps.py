"""Which maps a training set gives, known before the first iteration."""

from __future__ import annotations

from mixcore.data.checks import has_maps
from mixcore.data.foreign import exits_named
from mixcore.data.randomness import preserved_generators, seed_generators
from mixcore.errors import UnreadableSampleError
from mixcore.rng import keyed_seed
from mixcore.types import Data, Resident

__all__ = ["given_maps"]


def given_maps(data: Data) -> tuple[str, ...]:
    """Names of the maps that training batches of `data` can have; of a Dataset, those of its first readable sample.

    Raises UnreadableSampleError for a sample that says that it must not be skipped.
    """
    if isinstance(data.train, Resident):
        return tuple(data.train.maps)
    for index in range(len(data.train)):  # type: ignore[arg-type]
        try:
            with preserved_generators(), exits_named(data.train, "the training set"):
                seed_generators(keyed_seed("maps", index))
                sample = data.train[index]
        except UnreadableSampleError as error:
            if not error.skip:
                raise
            continue
        return tuple(map(str, sample[2])) if has_maps(sample) else ()
    return ()
