"""Mixup for mixcore: convex combinations of images and labels."""

from __future__ import annotations

from mixcore_plugin_mixup.mixup import Mixup, mixup
from mixcore_plugin_mixup.version import __version__

__all__ = ["Mixup", "__version__", "mixup"]
