"""Where a call of a mixer happens: in which process of the run, and in which worker process of a DataLoader."""

from __future__ import annotations

import torch.distributed as dist
from torch.utils.data import get_worker_info

from mixcore.rng import keyed_seed

__all__ = ["in_worker", "rank", "seed_here"]

_DISTRIBUTED = dist.is_available()


def rank(otherwise: int = 0) -> int:
    """Number of this process among those that train together; `otherwise` where it was never joined to them."""
    return dist.get_rank() if _DISTRIBUTED and dist.is_initialized() else otherwise


def in_worker() -> bool:
    """Whether this is a worker process of a DataLoader."""
    return get_worker_info() is not None


def seed_here(seed: int) -> int:
    """`seed`, and in a worker process of a DataLoader one of its own, made from both.

    A worker's seed is the loader's base seed, drawn anew whenever workers are started, plus the worker's number: no two
    workers share one, and neither do those of two epochs.
    """
    worker = get_worker_info()
    return seed if worker is None else keyed_seed(seed, "worker", worker.seed)
