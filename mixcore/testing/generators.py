"""The global generators: their states, to see whether something drew from them, and states that nobody foresees."""

from __future__ import annotations

import pickle
import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

__all__ = ["arbitrary_generators", "generator_states"]

ARBITRARY = 1_940_837_511
"""A seed that nobody else sets: after it a `manual_seed(0)` shows, whatever was seeded before."""


def generator_states() -> dict[str, object]:
    """The states of torch's, numpy's and random's generators, comparable with ==."""
    states: dict[str, object] = {
        "torch": torch.get_rng_state().tolist(),
        "numpy": pickle.dumps(np.random.get_state()),
        "random": random.getstate(),
    }
    if torch.cuda.is_initialized():
        states["torch.cuda"] = torch.cuda.get_rng_state().tolist()
    return states


@contextmanager
def arbitrary_generators() -> Iterator[None]:
    """Inside, the generators of torch, numpy and random are in a state of their own; afterwards in that of before."""
    numpy_state, random_state = np.random.get_state(), random.getstate()
    with torch.random.fork_rng():
        torch.manual_seed(ARBITRARY)
        np.random.seed(ARBITRARY)
        random.seed(ARBITRARY)
        try:
            yield
        finally:
            np.random.set_state(numpy_state)
            random.setstate(random_state)
