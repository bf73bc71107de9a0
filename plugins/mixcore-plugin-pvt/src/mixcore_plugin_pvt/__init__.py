"""PVT for mixcore: the first Pyramid Vision Transformer, Tiny and Small."""

from __future__ import annotations

from mixcore_plugin_pvt.network import PyramidVisionTransformer
from mixcore_plugin_pvt.plugin import PVTSmall, PVTTiny
from mixcore_plugin_pvt.version import __version__

__all__ = ["PVTSmall", "PVTTiny", "PyramidVisionTransformer", "__version__"]
