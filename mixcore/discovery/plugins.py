"""The plugins of a run by role, as the calls into them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs
import pluggy

from mixcore.discovery.select import Selected
from mixcore.hooks.calls import PluginCalls
from mixcore.options import Saliency

__all__ = ["Plugins"]


@attrs.frozen(eq=False, kw_only=True)
class Plugins:
    """The plugins of a run by role, each as the calls into it."""

    manager: pluggy.PluginManager
    data: PluginCalls | None
    backbone: PluginCalls | None
    mixers: tuple[PluginCalls, ...]
    labels: PluginCalls
    loss: PluginCalls
    extras: tuple[PluginCalls, ...]
    saliencies: tuple[PluginCalls, ...]
    """Those that options of the others hold."""
    held: Mapping[Saliency, PluginCalls]
    """For what each of these options holds, the calls into its plugin; equal tables lead to one."""
    chooser: PluginCalls
    """The core's own `choose_mixer`, with the plugins' wrappers around it."""
    probabilities: tuple[float, ...]
    """Chance of each mixer; what is left of 1 stays clean."""
    group_sizes: tuple[int | None, ...]
    """Samples that each mixer mixes among themselves; None: the batch of one process."""
    predictor: str | None
    """The predictor that the mixers suggest."""
    selected: tuple[Selected, ...]
    """Where each of `everyone` came from, in the same order."""

    @property
    def everyone(self) -> tuple[PluginCalls, ...]:
        """Every plugin of the run: data, backbone, mixers, labels, loss, extras, saliencies."""
        owners = tuple(calls for calls in (self.data, self.backbone) if calls is not None)
        return (*owners, *self.mixers, self.labels, self.loss, *self.extras, *self.saliencies)

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
