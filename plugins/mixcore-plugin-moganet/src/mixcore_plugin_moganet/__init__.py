"""MogaNet for mixcore: X-Tiny, Tiny and Small."""

from __future__ import annotations

from mixcore_plugin_moganet.network import MogaNet
from mixcore_plugin_moganet.plugin import CifarMogaNetTiny, MogaNetSmall, MogaNetTiny, MogaNetXTiny
from mixcore_plugin_moganet.version import __version__

__all__ = ["CifarMogaNetTiny", "MogaNet", "MogaNetSmall", "MogaNetTiny", "MogaNetXTiny", "__version__"]
