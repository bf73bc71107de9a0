"""The plugins of a run by role, as the calls into them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs
import pluggy

from mixcore.discovery.select import Selected, Selection
from mixcore.hooks.calls import PluginCalls
from mixcore.hooks.roles import EXTRA
from mixcore.options import Saliency

__all__ = ["Plugins"]


@attrs.frozen(eq=False, kw_only=True)
class Plugins:
    """The plugins of a run by role, each as the calls into it."""

    manager: pluggy.PluginManager
    of: Mapping[str, tuple[PluginCalls, ...]]
    """Role -> its plugins, as `selection` has them."""
    selection: Selection
    """Where each of them came from."""
    held: Mapping[Saliency, PluginCalls]
    """For what each option holds, the calls into its plugin; equal tables lead to one."""
    chooser: PluginCalls
    """The core's own `choose_mixer`, with the plugins' wrappers around it."""
    probabilities: tuple[float, ...]
    """Chance of each mixer; what is left of 1 stays clean."""
    group_sizes: tuple[int | None, ...]
    """Samples that each mixer mixes among themselves; None: the batch of one process."""

    @property
    def data(self) -> PluginCalls | None:
        """Owner of data; None in a foreign loop."""
        return next(iter(self.of["data"]), None)

    @property
    def backbone(self) -> PluginCalls | None:
        """Owner of backbone; None in a foreign loop."""
        return next(iter(self.of["backbone"]), None)

    @property
    def mixers(self) -> tuple[PluginCalls, ...]:
        """Those that take turns."""
        return self.of["mix"]

    @property
    def labels(self) -> PluginCalls:
        """Owner of labels."""
        return self.of["labels"][0]

    @property
    def loss(self) -> PluginCalls:
        """Owner of loss."""
        return self.of["loss"][0]

    @property
    def extras(self) -> tuple[PluginCalls, ...]:
        """Plugins without a role."""
        return self.of[EXTRA]

    @property
    def saliencies(self) -> tuple[PluginCalls, ...]:
        """Those that options of the others hold."""
        return self.of["saliency"]

    @property
    def predictor(self) -> str | None:
        """The predictor that the mixers suggest."""
        return self.selection.predictor

    @property
    def selected(self) -> tuple[Selected, ...]:
        """Where each of `everyone` came from, in the same order."""
        return self.selection.everyone()

    @property
    def everyone(self) -> tuple[PluginCalls, ...]:
        """Every plugin of the run, role by role."""
        return tuple(calls for group in self.of.values() for calls in group)

    @property
    def augmentations(self) -> int:
        """Further augmentations of a batch: as many as the plugin that wants most of them declares."""
        return max((item.declared.augmentations for item in self.selected), default=0)

    @property
    def maps(self) -> tuple[str, ...]:
        """Names of the maps that any plugin reads."""
        return tuple(dict.fromkeys(name for item in self.selected for name in item.declared.maps))

    def described(self) -> list[tuple[str, str, str, str, str]]:
        """(role, name, distribution, version, first line of the class's description) of each of `everyone`."""
        return [
            (item.role, item.table.name, item.distribution, item.version, _first_line(item.plugin))
            for item in self.selected
        ]


def _first_line(plugin: Any) -> str:
    return (type(plugin).__doc__ or "").strip().partition("\n")[0]
