"""Directions in the space of weights: random ones and their normalisation, to a checkpoint, along the training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, TypeAlias

import torch
from torch import Tensor, nn

from mixcore.api import ConfigError, keyed_generator

__all__ = [
    "Normalisation",
    "State",
    "between",
    "cosine",
    "normalised_like",
    "principal",
    "project",
    "random_direction",
    "state_of",
]

Normalisation: TypeAlias = Literal["filter", "layer", "weight", "dfilter", "dlayer", "none"]
State: TypeAlias = Mapping[str, Tensor]
"""Weights (and statistics) of a network by name, or a direction among them."""
_TINY = 1e-10


def state_of(model: nn.Module, states: bool = False) -> dict[str, Tensor]:
    """The parameters of the network, with its floating buffers where `states`; not copied, without a graph."""
    found = {name: value.detach() for name, value in model.named_parameters()}
    if states:
        found |= {name: value.detach() for name, value in model.named_buffers() if value.is_floating_point()}
    return found


def normalised_like(direction: Tensor, weight: Tensor, how: Normalisation) -> Tensor:
    """A direction of more than one dimension scaled by its weight; a filter is what one output index has.

    filter and layer: to the norm of each filter or the whole weight. weight: times the weight. dfilter and dlayer: to
    norm 1. none: as it is.
    """
    if how == "none":
        return direction
    if how == "weight":
        return direction * weight
    if how in ("layer", "dlayer"):
        return direction * (weight.norm() if how == "layer" else 1.0) / (direction.norm() + _TINY)
    shape = (-1, *(1,) * (weight.ndim - 1))
    own, wanted = direction.flatten(1).norm(dim=1).view(shape), weight.flatten(1).norm(dim=1).view(shape)
    return direction * (wanted if how == "filter" else 1.0) / (own + _TINY)


def random_direction(base: State, how: Normalisation, seed: int, number: int) -> dict[str, Tensor]:
    """Direction `number` of that seed: normal draws, normalised; 0 for weights of one dimension (none: themselves)."""
    found = {}
    for name, weight in base.items():
        if weight.ndim <= 1:
            found[name] = weight.clone() if how == "none" else torch.zeros_like(weight)
            continue
        rng = keyed_generator("landscape", seed, number, name)
        draw = torch.randn(weight.shape, generator=rng).to(weight.device, weight.dtype)
        found[name] = normalised_like(draw, weight, how)
    return found


def between(base: State, states: Mapping[int, State], epoch: int) -> dict[str, Tensor]:
    """From the weights to those of the checkpoint of an epoch. ConfigError naming those that are there."""
    if epoch not in states:
        raise ConfigError(
            f"to = {epoch}: the run has no checkpoint of that epoch; it has: {', '.join(map(str, states)) or 'none'}"
        )
    return {name: states[epoch][name].to(weight.device) - weight for name, weight in base.items()}


def cosine(first: State, second: State) -> float:
    """Cosine of the angle between two directions."""
    a, b = _flat(first), _flat(second)
    return float(a @ b / (a.norm() * b.norm() + _TINY))


def principal(base: State, states: Mapping[int, State]) -> tuple[list[dict[str, Tensor]], list[float]]:
    """The two directions, of norm 1, in which the checkpoints differ most, and their shares of the variance.

    They are the principal components of checkpoint minus final weights; what has at most one dimension counts as equal.
    ConfigError for fewer than three different epochs.
    """
    if len(states) < 3:
        raise ConfigError(
            f"a trajectory needs checkpoints of at least three epochs, and the run's folder has those of "
            f"{', '.join(map(str, states)) or 'none'}; train with [run] keep_every, which keeps "
            'weights every so many epochs, or set landscape.kind="plane"'
        )
    differences = torch.stack([_difference(base, state) for state in states.values()])
    centred = differences - differences.mean(0)
    _, values, components = torch.linalg.svd(centred, full_matrices=False)
    shares = values.square() / values.square().sum().clamp(min=_TINY)
    return [_unflat(components[number], base) for number in range(2)], shares[:2].tolist()


def project(base: State, state: State, direction: State) -> float:
    """How far a checkpoint lies from the final weights along a direction."""
    flat = _flat(direction)
    return float(_difference(base, state) @ flat / flat.norm())


def _flat(state: State) -> Tensor:
    return torch.cat([value.flatten().double() for value in state.values()])


def _difference(base: State, state: State) -> Tensor:
    return _flat(
        {
            name: torch.zeros_like(weight) if weight.ndim <= 1 else state[name].to(weight.device) - weight
            for name, weight in base.items()
        }
    )


def _unflat(flat: Tensor, base: State) -> dict[str, Tensor]:
    found, start = {}, 0
    for name, weight in base.items():
        found[name] = flat[start : start + weight.numel()].view(weight.shape).to(weight.dtype)
        start += weight.numel()
    return found
