"""SmoothMix for mixcore: two images blended by a soft Gaussian bump, labels weighted by its mean."""

from __future__ import annotations

from mixcore_plugin_smoothmix.smoothmix import SmoothMix, gaussians, smoothmix
from mixcore_plugin_smoothmix.version import __version__

__all__ = ["SmoothMix", "__version__", "gaussians", "smoothmix"]
