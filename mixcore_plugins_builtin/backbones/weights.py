"""Weights of a backbone from a local file."""

from __future__ import annotations

import logging
from pathlib import Path

from timm.models import load_state_dict
from torch import Tensor, nn

from mixcore.api import ConfigError
from mixcore_plugins_builtin.backbones.initialise import classifiers

__all__ = ["load_weights"]

logger = logging.getLogger("mixcore")


def load_weights(network: nn.Module, path: str) -> None:
    """Load a state dict (torch file or safetensors, bare or under `state_dict` or `model`) into the network.

    A checkpoint of a run gives the network that was trained there. A classifier of another shape, or none, in the file
    leaves the network's own, which is said in the log. ConfigError for a file that is missing, unreadable, or of
    another network.
    """
    state = _read(Path(path))
    own = network.state_dict()
    heads = _classifier_keys(network)
    fresh = [name for name in heads if name not in state or state[name].shape != own[name].shape]
    for name in fresh:
        state.pop(name, None)
    faults = [
        *(f"{name} is missing" for name in own if name not in state and name not in fresh),
        *(f"{name} belongs to no module" for name in state if name not in own),
        *(
            f"{name} has shape {list(state[name].shape)}, expected {list(own[name].shape)}"
            for name in state
            if name in own and state[name].shape != own[name].shape
        ),
    ]
    if faults:
        shown = "; ".join(faults[:3]) + (f"; and {len(faults) - 3} more" if len(faults) > 3 else "")
        raise ConfigError(
            f"backbone.weights: {path} does not hold weights of this {type(network).__name__}: {shown}; "
            "name the file's own architecture, or another file"
        )
    network.load_state_dict(state, strict=False)
    if fresh:
        logger.info("backbone.weights: %s has no classifier of this shape; it starts anew", path)


def _read(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise ConfigError(f"backbone.weights: no file {path} (paths are relative to the working directory)")
    try:
        state = load_state_dict(str(path), use_ema=False, weights_only=True)
    except Exception as error:  # torch and safetensors raise a dozen unrelated types for a file that is not theirs
        raise ConfigError(f"backbone.weights: {path} is no file of tensors that can be read: {error}") from error
    if isinstance(state.get("step"), dict):  # a checkpoint of a run: the network is `model` of its training step
        state = {
            name.removeprefix("model."): value for name, value in state["step"].items() if name.startswith("model.")
        }
    if not state or not all(isinstance(value, Tensor) for value in state.values()):
        raise ConfigError(
            f"backbone.weights: {path} holds no state dict; expected names and tensors, bare or under "
            "'state_dict' or 'model', or a checkpoint of a run"
        )
    return dict(state)


def _classifier_keys(network: nn.Module) -> list[str]:
    heads = list(classifiers(network))
    return [
        f"{name}.{key}"
        for name, module in network.named_modules()
        if any(module is head for head in heads)
        for key in module.state_dict()
    ]
