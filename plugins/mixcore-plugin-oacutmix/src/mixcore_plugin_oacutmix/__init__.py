"""Object-aware label weights for mixcore: how much of the object of each image is still seen in the mix."""

from __future__ import annotations

from mixcore_plugin_oacutmix.oacutmix import OACutMix, object_weights
from mixcore_plugin_oacutmix.version import __version__

__all__ = ["OACutMix", "__version__", "object_weights"]
