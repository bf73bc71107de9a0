"""What all iterations of a run share: its plugins with their parts, the trained network, and how it is run."""

from __future__ import annotations

import functools
from collections.abc import Mapping

import attrs
from torch import nn

from mixcore.discovery.plugins import Plugins
from mixcore.hooks.calls import PluginCalls
from mixcore.networks.network import Network
from mixcore.step.precision import Precision
from mixcore.types import Part, Stage, Task

__all__ = ["IterationSetup", "RunPlugin"]


@attrs.frozen(eq=False, kw_only=True)
class RunPlugin:
    """A plugin in a run: its calls, the key of its parts, and the parts as hooks and the probe see them."""

    calls: PluginCalls
    key: str
    parts: Mapping[str, Part] = attrs.field(factory=dict)
    modules: Mapping[str, nn.Module] = attrs.field(factory=dict)
    networks: Mapping[str, Network] = attrs.field(factory=dict)


@attrs.frozen(eq=False, kw_only=True)
class IterationSetup:
    """What all iterations of a run share."""

    plugins: Plugins
    network: Network
    installed: tuple[RunPlugin, ...]
    task: Task
    stages: tuple[Stage, ...]
    """Stages that forwards of the trained network keep for later hooks."""
    attention: bool
    """Whether they keep attention."""
    precision: Precision
    compile: bool
    """Whether networks, and functions that plugins give to the probe, go through torch.compile."""
    overwrite: tuple[bool, ...]
    """Per mixer: whether it may write into the batch, because nobody looks at the batch afterwards."""

    @functools.cached_property
    def of(self) -> Mapping[PluginCalls, RunPlugin]:
        """The installed plugin behind its calls."""
        return {one.calls: one for one in self.installed}

    @functools.cached_property
    def mixers(self) -> tuple[RunPlugin, ...]:
        """Per [[mix]] table."""
        return tuple(self.of[calls] for calls in self.plugins.mixers)

    @functools.cached_property
    def labels(self) -> RunPlugin:
        """The owner of the label policy."""
        return self.of[self.plugins.labels]

    @functools.cached_property
    def loss(self) -> RunPlugin:
        """The owner of the loss."""
        return self.of[self.plugins.loss]

    @functools.cached_property
    def always(self) -> tuple[RunPlugin, ...]:
        """Those that have a say in every iteration, whoever mixes: owners of labels and loss, then the extras."""
        return (self.labels, self.loss, *(self.of[calls] for calls in self.plugins.extras))

    def keeping_batches(self) -> IterationSetup:
        """The same, with no mixer allowed to write into its batch."""
        return attrs.evolve(self, overwrite=(False,) * len(self.overwrite))
