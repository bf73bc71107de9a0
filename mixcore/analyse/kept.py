"""A network that is the same afterwards, whatever was done with it, and generators that are."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from mixcore.data.randomness import preserved_generators

__all__ = ["kept"]


@contextmanager
def kept(network: nn.Module) -> Iterator[list[str]]:
    """Put weights, buffers, gradients, modes and global generators back as they were.

    Gives a list that afterwards has the names of the weights and buffers that had changed.
    """
    changed: list[str] = []
    before = {name: value.detach().clone() for name, value in _tensors(network).items()}
    modes = [(module, module.training) for module in network.modules()]
    gradients = [(parameter, parameter.grad, parameter.requires_grad) for parameter in network.parameters()]
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    try:
        with preserved_generators():
            yield changed
    finally:
        if cuda:
            torch.cuda.set_rng_state_all(cuda)
        for module, training in modes:
            module.training = training
        for parameter, gradient, wanted in gradients:
            parameter.requires_grad_(wanted).grad = gradient
        with torch.no_grad():
            for name, value in _tensors(network).items():
                if not torch.equal(value.nan_to_num(), before[name].nan_to_num()):
                    changed.append(name)
                    value.copy_(before[name])


def _tensors(network: nn.Module) -> dict[str, torch.Tensor]:
    """Weights and buffers by name, those too that no checkpoint has."""
    return {**dict(network.named_parameters()), **dict(network.named_buffers())}
