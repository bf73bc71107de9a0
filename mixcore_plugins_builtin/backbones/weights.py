"""Weights of a backbone from a local file."""

from __future__ import annotations

import logging
from pathlib import Path

from torch import nn

from mixcore.api import ConfigError, mismatches, read_weights
from mixcore_plugins_builtin.backbones.initialise import classifiers

__all__ = ["load_weights"]

logger = logging.getLogger("mixcore")


def load_weights(network: nn.Module, path: str) -> None:
    """Load a state dict (torch file or safetensors, bare or under `state_dict` or `model`) into the network.

    A checkpoint of a run gives the network that was trained there. A classifier of another shape, or none, in the file
    leaves the network's own, which is said in the log. ConfigError for a file that is missing, unreadable, or of
    another network.
    """
    state = read_weights(Path(path), "backbone.weights")
    own = network.state_dict()
    fresh = [name for name in _classifier_keys(network) if name not in state or state[name].shape != own[name].shape]
    faults = mismatches(network, state | {name: own[name] for name in fresh})
    if faults:
        shown = "; ".join(faults[:3]) + (f"; and {len(faults) - 3} more" if len(faults) > 3 else "")
        raise ConfigError(
            f"backbone.weights: {path} does not hold weights of this {type(network).__name__}: {shown}; "
            "name the file's own architecture, or another file"
        )
    for name in fresh:
        state.pop(name, None)
    network.load_state_dict(state, strict=False)
    if fresh:
        logger.info("backbone.weights: %s has no classifier of this shape; it starts anew", path)


def _classifier_keys(network: nn.Module) -> list[str]:
    heads = list(classifiers(network))
    return [
        f"{name}.{key}"
        for name, module in network.named_modules()
        if any(module is head for head in heads)
        for key in module.state_dict()
    ]
