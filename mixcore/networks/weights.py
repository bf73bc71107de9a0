"""Weights of a network from a local file: the one reader, whatever the table that names the file."""

from __future__ import annotations

import argparse
import logging
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mixcore.errors import ConfigError, MixcoreError
from mixcore.networks.classifier import classifiers

__all__ = ["load_weights", "mismatches", "python_objects", "read_weights", "refuse_weight_options"]

logger = logging.getLogger("mixcore")

_TIMM_READS = ("cache_dir", "checkpoint_path", "pretrained_cfg", "pretrained_cfg_overlay")
"""Arguments of timm's models that name files or places of weights, or choose what is fetched."""
_WRAPPERS = ("module.", "_orig_mod.")
"""What DistributedDataParallel and torch.compile put before every name."""


def read_weights(path: Path, owner: str) -> dict[str, Tensor]:
    """The tensors of one network in `path`, by the network's own names, on the CPU.

    Reads torch files and safetensors: a state dict, bare or under "state_dict" or "model", or a checkpoint of a
    mixcore run, of which it takes the network that was trained. Nothing that a file holds is executed. Raises
    ConfigError, which begins with `owner` (such as "backbone.weights"), for a file that is missing, that cannot be
    read, that holds Python objects, or no tensors.
    """
    if not path.is_file():
        raise ConfigError(f"{owner}: no file {path} (paths are relative to the working directory)")
    found = _network_state(_read(path, owner))
    if not found or not all(isinstance(value, Tensor) for value in found.values()):
        raise ConfigError(
            f"{owner}: {path} holds no state dict; expected names and tensors, bare or under 'state_dict' or 'model', "
            "or a checkpoint of a run"
        )
    return found


def mismatches(network: nn.Module, state: Mapping[str, Tensor]) -> list[str]:
    """What keeps `state` from being the whole state of `network`: a phrase per tensor, in the network's order."""
    own = network.state_dict()
    return [
        *(f"{name} is missing" for name in own if name not in state),
        *(f"{name} belongs to no module" for name in state if name not in own),
        *(
            f"{name} has shape {list(state[name].shape)}, expected {list(value.shape)}"
            for name, value in own.items()
            if name in state and state[name].shape != value.shape
        ),
    ]


def load_weights(network: nn.Module, path: Path, owner: str) -> None:
    """Start `network` from the tensors of a local file, which :func:`read_weights` reads.

    A classifier of another shape, or none, in the file leaves the network's own, which is said in the log. ConfigError,
    which begins with `owner`, for a file that is missing, unreadable, or of another network.
    """
    state = read_weights(path, owner)
    own = network.state_dict()
    fresh = [name for name in _classifier_keys(network) if name not in state or state[name].shape != own[name].shape]
    faults = mismatches(network, state | {name: own[name] for name in fresh})
    if faults:
        shown = "; ".join(faults[:3]) + (f"; and {len(faults) - 3} more" if len(faults) > 3 else "")
        raise ConfigError(
            f"{owner}: {path} does not hold weights of this {type(network).__name__}: {shown}; "
            "name the file's own architecture, or another file"
        )
    for name in fresh:
        state.pop(name, None)
    network.load_state_dict(state, strict=False)
    if fresh:
        logger.info("%s: %s has no classifier of this shape; it starts anew", owner, path)


def _classifier_keys(network: nn.Module) -> list[str]:
    heads = list(classifiers(network))
    return [
        f"{name}.{key}"
        for name, module in network.named_modules()
        if any(module is head for head in heads)
        for key in module.state_dict()
    ]


def refuse_weight_options(options: Mapping[str, Any], owner: str, instead: str) -> None:
    """Refuse further arguments of a timm model by which timm itself would read weights. ConfigError.

    timm's readers have executed what a file holds, depending on the version; `instead` says which option to use.
    """
    found = [name for name in _TIMM_READS if name in options]
    if found:
        raise ConfigError(f"{owner} names {', '.join(found)}, by which timm would read weights itself; {instead}")


def _read(path: Path, owner: str) -> Mapping[str, Any]:
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        with torch.serialization.safe_globals([argparse.Namespace]):  # training scripts keep their arguments beside
            found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a file that is none of these raises whatever its first bytes lead to
        objects = python_objects(path)
        if objects:
            raise ConfigError(
                f"{owner}: {path} holds Python objects ({', '.join(objects[:3])}), and making them would run code "
                "that the file brings; it was not loaded. Save the tensors alone: torch.save(network.state_dict(), "
                "path), or safetensors"
            ) from error
        # torch's own words of such an error advise to switch its protection off
        foreign = isinstance(error, pickle.UnpicklingError)
        reason = "it is no torch file" if foreign else str(error).partition("\n")[0][:200] or type(error).__name__
        raise ConfigError(f"{owner}: {path} is no file of tensors that can be read: {reason}") from error
    if not isinstance(found, Mapping):
        raise ConfigError(f"{owner}: {path} holds a {type(found).__name__}, expected a state dict")
    return found


def python_objects(path: Path) -> list[str]:
    """What a torch file would import to make its objects; empty for a file that is none."""
    try:
        return sorted(torch.serialization.get_unsafe_globals_in_checkpoint(path))
    except MixcoreError:
        raise
    except Exception:  # damaged beyond telling
        return []


def _network_state(found: Mapping[str, Any]) -> dict[str, Any]:
    """The state of the network, under its own names."""
    if isinstance(found.get("step"), Mapping):  # a checkpoint of a run: the network is `model` of its training step
        return {
            name.removeprefix("model."): value for name, value in found["step"].items() if name.startswith("model.")
        }
    state = next((found[key] for key in ("state_dict", "model") if isinstance(found.get(key), Mapping)), found)
    for prefix in _WRAPPERS:
        if state and all(isinstance(name, str) and name.startswith(prefix) for name in state):
            state = {name.removeprefix(prefix): value for name, value in state.items()}
    return dict(state)
