"""ResizeMix for mixcore: another image, whole and shrunk, pasted at a random place, labels weighted by area."""

from __future__ import annotations

from mixcore_plugin_resizemix.pasting import resizemix_boxes, resizemix_one_box, resizemix_one_size, shrink
from mixcore_plugin_resizemix.resizemix import ResizeMix, clipped_boxes, shifted_boxes
from mixcore_plugin_resizemix.version import __version__

__all__ = [
    "ResizeMix",
    "__version__",
    "clipped_boxes",
    "resizemix_boxes",
    "resizemix_one_box",
    "resizemix_one_size",
    "shifted_boxes",
    "shrink",
]
