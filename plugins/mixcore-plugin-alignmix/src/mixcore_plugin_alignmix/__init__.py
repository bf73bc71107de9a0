"""AlignMix for mixcore: last feature maps are aligned by optimal transport, then mixed."""

from __future__ import annotations

from mixcore_plugin_alignmix.align import align, transport
from mixcore_plugin_alignmix.plugin import AlignMix
from mixcore_plugin_alignmix.version import __version__

__all__ = ["AlignMix", "__version__", "align", "transport"]
