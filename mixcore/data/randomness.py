"""The global generators, seeded per sample and given back.

Image transforms of torchvision and timm draw from the global generators of python, numpy and torch. Each sample seeds
them from its own key, so that its image does not depend on which worker process makes it, nor on what came before.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

__all__ = ["preserved_generators", "seed_everywhere", "seed_generators"]


def seed_generators(seed: int) -> None:
    """Seed the global CPU generators of python, numpy and torch; CUDA's are left alone."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.default_generator.manual_seed(seed)


def seed_everywhere(seed: int, device: torch.device) -> None:
    """The same, and the global generator of CUDA where `device` is of it."""
    seed_generators(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed(seed)


@contextmanager
def preserved_generators() -> Iterator[None]:
    """Give the global CPU generators back as they were."""
    states = random.getstate(), np.random.get_state(), torch.default_generator.get_state()
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.default_generator.set_state(states[2])
