"""SAMix for mixcore: AutoMix's step with a block whose masks follow lam and both images."""

from __future__ import annotations

from mixcore_plugin_samix.block import SAMixBlock, rescaled
from mixcore_plugin_samix.plugin import SAMix
from mixcore_plugin_samix.version import __version__

__all__ = ["SAMix", "SAMixBlock", "__version__", "rescaled"]
