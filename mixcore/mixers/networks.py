"""The trained network of a foreign loop: does it fit, and what stands in its place where nobody may look at it."""

from __future__ import annotations

from typing import Any, cast

from torch import nn

from mixcore.discovery.capabilities import check_network
from mixcore.discovery.plugins import Plugins
from mixcore.errors import ConfigError
from mixcore.networks.classifier import class_count
from mixcore.networks.network import Network, capabilities
from mixcore.networks.readers import check_readers
from mixcore.networks.stages import stage_names
from mixcore.step.precision import Precision

__all__ = ["check_classes", "no_network", "seen_network"]


def check_classes(model: nn.Module, num_classes: int) -> None:
    """Refuse a network whose classifier has another number of classes; one that does not say is left alone."""
    found = class_count(model)
    if found is not None and found != num_classes:
        raise ConfigError(
            f"the classifier of {type(model).__name__} has {found} classes, and num_classes={num_classes} was said; "
            f"say num_classes={found}, or make the network with num_classes={num_classes}"
        )


def seen_network(plugins: Plugins, model: nn.Module | None, num_classes: int, precision: Precision) -> Network:
    """The model as the mixers' probe looks at it; where none was given or none looks, what says so when looked at.

    Raises ConfigError for a model that does not fit the task or the methods.
    """
    if model is None:
        return no_network(plugins, "none was given; pass it: create_mixer(..., model=net)")
    check_classes(model, num_classes)
    if not any("probe" in calls.asks("generate_mix") for calls in plugins.mixers):
        return no_network(plugins, "asks for no probe")
    looking = [item.declared for item in plugins.selected if item.role in ("mix", "saliency")]
    attention = any("attention" in own.needs for own in looking)
    if attention:
        check_readers(model)
    check_network(plugins, capabilities(model), stage_names(model))
    return Network(
        model,
        stages=tuple(dict.fromkeys(stage for own in looking for stage in own.stages)),
        attention=attention,
        autocast=precision.autocast,
    )


def no_network(plugins: Plugins, why: str) -> Network:
    """What stands where the trained network would be: it says why there is none to whoever looks at it."""
    looking = [calls.label for calls in plugins.mixers if "probe" in calls.asks("generate_mix")]
    return cast(Network, _NoNetwork(f"{' or '.join(looking)} looks at the trained network, and {why}"))


class _NoNetwork:
    def __init__(self, message: str) -> None:
        self._message = message

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)  # copy and pickle ask for these, no method does
        raise ConfigError(self._message)
