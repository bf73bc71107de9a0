"""SnapMix for mixcore: a box of another image, resized into a box elsewhere, labels weighted by class activation."""

from __future__ import annotations

from mixcore_plugin_snapmix.activation import ClassActivationShifted
from mixcore_plugin_snapmix.pasting import paste_resized, paste_resized_each
from mixcore_plugin_snapmix.semantic import counted_twice, label_weights, semantic_maps
from mixcore_plugin_snapmix.snapmix import SnapMix, snapmix, snapmix_per_sample
from mixcore_plugin_snapmix.version import __version__

__all__ = [
    "ClassActivationShifted",
    "SnapMix",
    "__version__",
    "counted_twice",
    "label_weights",
    "paste_resized",
    "paste_resized_each",
    "semantic_maps",
    "snapmix",
    "snapmix_per_sample",
]
