"""SuperMix for mixcore: images blended by masks that a frozen teacher optimises."""

from __future__ import annotations

from mixcore_plugin_supermix.labels import SuperMixLabels
from mixcore_plugin_supermix.optimise import Supermixed, supermix
from mixcore_plugin_supermix.plugin import SuperMix
from mixcore_plugin_supermix.version import __version__

__all__ = ["SuperMix", "SuperMixLabels", "Supermixed", "__version__", "supermix"]
