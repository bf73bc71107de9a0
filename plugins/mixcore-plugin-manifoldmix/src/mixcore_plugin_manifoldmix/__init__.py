"""Manifold Mixup for mixcore: Mixup of the images or of an early stage inside the network."""

from __future__ import annotations

from mixcore_plugin_manifoldmix.manifoldmix import ManifoldMix
from mixcore_plugin_manifoldmix.version import __version__

__all__ = ["ManifoldMix", "__version__"]
