"""The state of the global generators, to see whether something drew from them."""

from __future__ import annotations

import pickle
import random

import numpy as np
import torch

__all__ = ["generator_states"]


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
