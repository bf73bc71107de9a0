"""Mixup or CutMix for mixcore, switched per batch, pair or image."""

from __future__ import annotations

from mixcore_plugin_mixup_cutmix.plugin import MixupCutMix
from mixcore_plugin_mixup_cutmix.switch import Rows, mix_batch, mix_rows
from mixcore_plugin_mixup_cutmix.version import __version__

__all__ = ["MixupCutMix", "Rows", "__version__", "mix_batch", "mix_rows"]
