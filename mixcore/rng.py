"""Keyed randomness: a draw depends on its key, never on how many draws came before it.

Every generator is seeded by a hash of (seed, epoch, iteration, group, stream), so that a resumed run, another number of
processes, or a method that draws one number more leaves all other draws as they were.
"""

from __future__ import annotations

import hashlib

import torch

__all__ = ["keyed_generator", "keyed_seed"]


def keyed_seed(*key: int | str) -> int:
    """A seed in [0, 2**63) that depends on every element of the key and on their order."""
    text = "\x1f".join([f"{type(element).__name__}:{element}" for element in key])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1


def keyed_generator(*key: int | str, device: torch.device | str = "cpu") -> torch.Generator:
    """A fresh generator on `device`, seeded with :func:`keyed_seed` of the key."""
    return torch.Generator(device=device).manual_seed(keyed_seed(*key))
