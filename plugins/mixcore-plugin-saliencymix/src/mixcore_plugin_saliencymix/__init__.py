"""SaliencyMix for mixcore: CutMix with the box around the most salient pixel of the other image."""

from __future__ import annotations

from mixcore_plugin_saliencymix.onoff import OnOff8, onoff8
from mixcore_plugin_saliencymix.saliencymix import SaliencyMix, boxes_at, peaks, saliencymix
from mixcore_plugin_saliencymix.version import __version__

__all__ = ["OnOff8", "SaliencyMix", "__version__", "boxes_at", "onoff8", "peaks", "saliencymix"]
